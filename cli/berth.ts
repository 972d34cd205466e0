#!/usr/bin/env node
import { Command } from 'commander';
import { addCalibrateCommand } from './calibrate.ts';
import { CallError, type Connection, connection, UsageError } from './client.ts';
import { addDrainCommands } from './drains.ts';
import { addFileCommands } from './files.ts';
import { addImageCommands } from './images.ts';
import { addLeaseCommands } from './leases.ts';
import { addMigrationCommands } from './migrations.ts';
import { addEventCommand, addHostCommands } from './operators.ts';
import { addReservationCommands } from './reservations.ts';
import type { Screen } from './show.ts';
import { addTaskCommands } from './tasks.ts';
import { addVmCommands } from './vms.ts';

interface Options {
  api?: string;
  keyFile?: string;
  json?: boolean;
}

const program = new Command('berth')
  .description('Runs tasks in VMs: a client of the HTTP API of a Berth site')
  .option('--api <url>', 'address of the API (default: $BERTH_API)')
  .option('--key-file <path>', 'file with the API key (default: $BERTH_KEY, or the file that $BERTH_KEY_FILE names)')
  .option('--json', 'print JSON')
  .showHelpAfterError('Add --help to see how it is called')
  .exitOverride((error) => process.exit(error.exitCode === 0 ? 0 : 2))
  .addHelpText(
    'after',
    `
Examples:
  export BERTH_API=http://127.0.0.1:8080 BERTH_KEY_FILE=.berth/keys/client
  berth files put words.txt
  berth tasks submit --image debian-12 --input in/words=@words.txt --follow -- wc -w in/words
  berth tasks ls --state running
  berth vms create web --image debian-12 --user ann --ssh-key ~/.ssh/id_ed25519.pub --wait

Exit codes: 0 done; 1 refused, or a task that failed (its own exit code, where it has one); 2 a command that is not right.`,
  );

const connect = (): Connection => connection(program.opts<Options>(), process.env);
const screen = (): Screen => ({ out: process.stdout, err: process.stderr, json: program.opts<Options>().json ?? false });

addFileCommands(program, connect, screen);
addTaskCommands(program, connect, screen);
addLeaseCommands(program, connect, screen);
addVmCommands(program, connect, screen);
addMigrationCommands(program, connect, screen);
addImageCommands(program, connect, screen);
addDrainCommands(program, addHostCommands(program, connect, screen), connect, screen);
addReservationCommands(program, connect, screen);
addCalibrateCommand(program, connect, screen);
addEventCommand(program, connect, screen);

/** A reader like `head` has seen enough. */
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code === 'EPIPE') process.exit(0);
  throw error;
});

try {
  await program.parseAsync();
} catch (error) {
  if (!(error instanceof Error)) throw error;
  process.stderr.write(`berth: ${error.message}\n`);
  if (!(error instanceof CallError || error instanceof UsageError || 'code' in error)) process.stderr.write(`${error.stack}\n`);
  process.exitCode = error instanceof UsageError ? 2 : 1;
}
