import { CommanderError } from 'commander';
import { CommandError, readConnection, UsageError } from './client.ts';
import { printableLines } from './output.ts';
import { createProgram } from './program.ts';

/** The command `berth`. infra/cli-package bundles it; its exit codes are in `berth --help`. */
async function main(): Promise<void> {
  const program = createProgram((options) => ({
    connect: () => readConnection(options(), process.env),
    output: () => ({ out: process.stdout, err: process.stderr, json: options().json ?? false }),
  }));

  // A reader like `head` has seen enough.
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code === 'EPIPE') process.exit(0);
    throw error;
  });

  try {
    await program.parseAsync();
  } catch (error) {
    if (!(error instanceof Error)) throw error;
    if (error instanceof CommanderError) {
      // It has printed its message, or the help that was asked for.
      process.exitCode = error.exitCode === 0 ? 0 : 2;
      return;
    }
    process.stderr.write(`berth: ${printableLines(error.message)}\n`);
    // Errors of the operating system have a code, and say what they need to; the rest is a bug.
    if (!(error instanceof CommandError || 'code' in error)) process.stderr.write(`${error.stack}\n`);
    process.exitCode = error instanceof UsageError ? 2 : 1;
  }
}

void main();
