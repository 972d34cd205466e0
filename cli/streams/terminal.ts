import type { ReadStream } from 'node:tty';

/** Passes keys on as they are pressed, Ctrl-C among them, until `act` has ended. */
export async function withRawTerminal<T>(act: () => Promise<T>): Promise<T> {
  const input = process.stdin as ReadStream;
  input.setRawMode?.(true);
  try {
    return await act();
  } finally {
    input.setRawMode?.(false);
  }
}

/** Calls back when the terminal's size has changed, until `act` has ended. */
export async function withTerminalSize<T>(resize: (rows: number, cols: number) => void, act: () => Promise<T>): Promise<T> {
  const onResize = () => resize(process.stdout.rows, process.stdout.columns);
  process.stdout.on('resize', onResize);
  try {
    return await act();
  } finally {
    process.stdout.off('resize', onResize);
  }
}
