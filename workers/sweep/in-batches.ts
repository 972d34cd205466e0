/** How many files or tasks one query asks about. */
const batch = 500;

/** Calls `act` for batches of the items. */
export async function inBatches<T>(items: AsyncIterable<T>, act: (items: T[]) => Promise<void>): Promise<void> {
  let waiting: T[] = [];
  for await (const item of items) {
    waiting.push(item);
    if (waiting.length < batch) continue;
    await act(waiting);
    waiting = [];
  }
  if (waiting.length > 0) await act(waiting);
}
