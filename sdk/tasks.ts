import type { Files } from './files.ts';
import { type ListOptions, listItems, type WaitOptions, waitUntil } from './lists.ts';
import type { Task, TaskOutput } from './model.ts';
import type { CallOptions, Transport } from './transport.ts';

/** Bytes to be stored for the task, a stored file by its id, or a URL that the host downloads. */
export type TaskInput = string | Uint8Array<ArrayBuffer> | { file: string } | { url: string };

/** A task to be run. Fields that are not named here are sent as they are: `resources`, `env`, `nodes`, `timeoutS`, … */
export interface TaskRequest {
  image: string;
  command: string[];
  /** By path beneath the task's folder. A string is the text of the file. */
  inputs?: Record<string, TaskInput>;
  /** Patterns of the files to keep. */
  outputs?: string[];
  [field: string]: unknown;
}

/** A file that a task wrote. */
export interface StoredOutput extends TaskOutput {
  bytes(): Promise<Uint8Array<ArrayBuffer>>;
  text(): Promise<string>;
}

/** A task that has succeeded, with its outputs. */
export interface TaskResult extends Omit<Task, 'outputs'> {
  outputs: StoredOutput[];
}

/** A task ended otherwise than by success. */
export class TaskError extends Error {
  override readonly name = 'TaskError';
  readonly task: Task;
  /** One of the codes of the OpenAPI document, or `cancelled`. */
  readonly code: string;

  constructor(task: Task) {
    const { id, state, error, exitCode } = task;
    const status = exitCode === null ? '' : ` with exit code ${exitCode}`;
    super(`${id} ${state}${status}${error === null ? '' : `: ${error.message} (${error.code})`}`);
    this.task = task;
    this.code = error?.code ?? state;
  }
}

const finished = new Set(['succeeded', 'failed', 'cancelled']);

export class Tasks {
  readonly #transport: Transport;
  readonly #files: Files;

  constructor(transport: Transport, files: Files) {
    this.#transport = transport;
    this.#files = files;
  }

  /** Stores the inputs and submits the task: it is durable when this resolves. */
  async submit({ inputs = {}, ...spec }: TaskRequest, options: CallOptions = {}): Promise<Task> {
    const given = [];
    for (const [path, input] of Object.entries(inputs)) given.push({ path, ...(await this.#storedOf(path, input, options)) });
    return this.#transport.json<Task>('/v1/tasks', { ...options, method: 'POST', json: { ...spec, inputs: given } });
  }

  /**
   * Submits a task and waits for its end. The signal ends the wait, not the task.
   * @throws TaskError unless it succeeds
   */
  async run(request: TaskRequest, options: WaitOptions = {}): Promise<TaskResult> {
    const task = await this.wait((await this.submit(request, options)).id, options);
    if (task.state !== 'succeeded') throw new TaskError(task);
    const bytesOf = (output: TaskOutput) => this.#files.bytes(output.file, options);
    const outputs = task.outputs.map((output) => ({
      ...output,
      bytes: () => bytesOf(output),
      text: async () => new TextDecoder().decode(await bytesOf(output)),
    }));
    return { ...task, outputs };
  }

  get(id: string, options: CallOptions = {}): Promise<Task> {
    return this.#transport.json<Task>(pathOf(id), options);
  }

  /** Newest first, fetched a page at a time. */
  list(options: ListOptions = {}): AsyncGenerator<Task> {
    return listItems<Task>(this.#transport, '/v1/tasks', options);
  }

  /** Resolves when the task is over, however it ended. */
  wait(id: string, options: WaitOptions = {}): Promise<Task> {
    return waitUntil(
      () => this.get(id, options),
      ({ state }) => finished.has(state),
      options,
    );
  }

  /** Requests that the task ends; `wait` resolves when it has. */
  cancel(id: string, options: CallOptions = {}): Promise<Task> {
    return this.#transport.json<Task>(pathOf(id), { ...options, method: 'DELETE' });
  }

  /** What the command prints, until the task is over; a broken connection is made again. */
  log(id: string, { node = 0, follow = true, ...options }: CallOptions & { node?: number; follow?: boolean } = {}) {
    return this.#transport.stream(`${pathOf(id)}/log?node=${node}&follow=${follow ? 1 : 0}`, options);
  }

  async #storedOf(path: string, input: TaskInput, options: CallOptions): Promise<{ file: string } | { url: string }> {
    if (typeof input === 'object' && ('file' in input || 'url' in input)) return input;
    const { id } = await this.#files.upload(path.split('/').at(-1) || 'input', input, options);
    return { file: id };
  }
}

const pathOf = (id: string): string => `/v1/tasks/${encodeURIComponent(id)}`;
