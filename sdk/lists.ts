import { type CallOptions, pause, type Transport } from './transport.ts';

export interface ListOptions extends CallOptions {
  /** Parameters of the list, as `{ state: 'running' }`. */
  query?: Record<string, string>;
  /** From 1 to 200. */
  pageSize?: number;
}

export interface WaitOptions extends CallOptions {
  /** Between two looks; 500 unless given. */
  everyMs?: number;
}

/** The items of a list, each page fetched when it is needed. */
export async function* listItems<T>(
  transport: Transport,
  path: string,
  { query, pageSize = 100, ...options }: ListOptions,
): AsyncGenerator<T> {
  const parameters = new URLSearchParams({ ...query, limit: String(pageSize) });
  for (let more = true; more; ) {
    const page = await transport.json<{ items: T[]; next: string | null }>(`${path}?${parameters}`, options);
    yield* page.items;
    more = page.next !== null;
    if (page.next !== null) parameters.set('cursor', page.next);
  }
}

/** Reads again and again until `isDone`. */
export async function waitUntil<T>(
  read: () => Promise<T>,
  isDone: (value: T) => boolean,
  { everyMs = 500, signal }: WaitOptions,
): Promise<T> {
  let value = await read();
  while (!isDone(value)) {
    await pause(everyMs, signal);
    value = await read();
  }
  return value;
}
