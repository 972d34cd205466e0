import { run } from '../../../drivers/host/run-process.ts';
import type { TestSite } from '../the-site.ts';
import { berthEnv } from './berth.ts';

/** A terminal of tmux: a program runs in it, somebody types, and the screen is what tmux makes of the output. */
export interface Terminal {
  /** Its lines, the last ones empty where nothing is written. */
  screen(): Promise<string[]>;
  /** As tmux names keys, or literal text. */
  type(...keys: string[]): Promise<void>;
  resize(columns: number, rows: number): Promise<void>;
  /** Copies all output from now on to a file. */
  transcribe(path: string): Promise<void>;
  /** Its exit code; null: it runs. Throws where a signal has ended it. */
  exitCode(): Promise<number | null>;
  end(): Promise<void>;
}

/** @param socket of a tmux server of its own, which ends with the terminal */
export async function openTerminal(test: TestSite, socket: string, argv: readonly string[]): Promise<Terminal> {
  // A terminal of the run's own environment is none of the program's.
  const { TMUX: _, ...env } = berthEnv(test);
  const tmux = (...words: string[]): Promise<string> =>
    run(['tmux', '-S', socket, '-f', '/dev/null', ...words], { deadlineMs: 10_000, env });
  // The pane is kept when its program has ended: it has the exit code.
  await tmux('new-session', '-d', '-x', '80', '-y', '24', 'sleep 1000', ';', 'set-option', '-g', 'remain-on-exit', 'on');
  await tmux('respawn-pane', '-k', argv.map((word) => `'${word.replaceAll("'", "'\\''")}'`).join(' '));
  return {
    screen: async () => (await tmux('capture-pane', '-p')).split('\n'),
    type: async (...keys) => void (await tmux('send-keys', ...keys)),
    resize: async (columns, rows) => void (await tmux('resize-window', '-x', String(columns), '-y', String(rows))),
    transcribe: async (path) => void (await tmux('pipe-pane', '-O', `cat > '${path}'`)),
    async exitCode() {
      const format = '#{pane_dead},#{pane_dead_status},#{pane_dead_signal}';
      const [dead, status, signal] = (await tmux('display-message', '-p', format)).trim().split(',');
      if (signal) throw new Error(`ended by signal ${signal}: ${await tmux('capture-pane', '-p')}`);
      // tmux knows that the terminal is closed before it knows how its program has ended.
      return dead === '1' && status !== '' ? Number(status) : null;
    },
    end: async () => void (await tmux('kill-server')),
  };
}
