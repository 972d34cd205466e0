import { Files } from './files.ts';
import { type ListOptions, listItems, type WaitOptions, waitUntil } from './lists.ts';
import type { Event, Migration, Vm } from './model.ts';
import { Tasks } from './tasks.ts';
import { type ApiRequest, type CallOptions, type ClientOptions, Transport } from './transport.ts';

export { AnswerLimitError, ApiError, ConnectionError, type FieldError } from './errors.ts';
export type { Event, File, Migration, Task, TaskOutput, Vm } from './model.ts';
export { type StoredOutput, TaskError, type TaskInput, type TaskRequest, type TaskResult } from './tasks.ts';
export type { ApiRequest, CallOptions, ClientOptions, ListOptions, WaitOptions };

/** A client of Berth's API, for Node 20 or newer and browsers. */
export class Berth {
  readonly files: Files;
  readonly tasks: Tasks;
  readonly #transport: Transport;

  constructor(options: ClientOptions) {
    this.#transport = new Transport(options);
    this.files = new Files(this.#transport);
    this.tasks = new Tasks(this.#transport, this.files);
  }

  /** Any other call of the API whose answer is JSON; a POST has one Idempotency-Key for all its attempts. */
  call<T>(path: string, request: ApiRequest = {}): Promise<T> {
    return this.#transport.json<T>(path, request);
  }

  /** The items of any list, as `/v1/vms`. */
  list<T>(path: string, options: ListOptions = {}): AsyncGenerator<T> {
    return listItems<T>(this.#transport, path, options);
  }

  /** Resolves with the VM when it is in one of the states. */
  waitForVm(id: string, states: readonly string[], options: WaitOptions = {}): Promise<Vm> {
    const read = () => this.call<Vm>(`/v1/vms/${encodeURIComponent(id)}`, options);
    return waitUntil(read, ({ state }) => states.includes(state), options);
  }

  /** Resolves when the migration is over: `succeeded` or `rolledBack`. */
  waitForMigration(id: string, options: WaitOptions = {}): Promise<Migration> {
    const read = () => this.call<Migration>(`/v1/migrations/${encodeURIComponent(id)}`, options);
    return waitUntil(read, ({ state }) => state === 'succeeded' || state === 'rolledBack', options);
  }

  /**
   * Events in order, each once, without an end.
   * @param options.after the `sequence` of the last one that was handled; without it, from the first that is kept
   * @throws ApiError `cursor-expired` when events after that are no longer kept
   */
  async *events({ after, type, ...options }: CallOptions & { after?: string; type?: string } = {}): AsyncGenerator<Event> {
    const query = new URLSearchParams({ limit: '1000', wait: '30' });
    if (type !== undefined) query.set('type', type);
    if (after !== undefined) query.set('after', after);
    for (;;) {
      const page = await this.#transport.json<{ items: Event[]; next: string }>(`/v1/events?${query}`, options);
      yield* page.items;
      query.set('after', page.next);
    }
  }
}
