/** As far as the client itself reads them; what else the API answers is in the objects as well: see `GET /openapi.json`. */
export interface TaskOutput {
  path: string;
  node: number;
  /** The id of the stored file. */
  file: string;
  sizeBytes: number;
  sha256: string;
}

export interface Task {
  id: string;
  name: string | null;
  state: string;
  exitCode: number | null;
  error: { code: string; message: string } | null;
  outputs: TaskOutput[];
  createdAt: string;
  finishedAt: string | null;
}

export interface File {
  id: string;
  name: string;
  sizeBytes: number;
  sha256: string;
  createdAt: string;
}

export interface Vm {
  id: string;
  name: string | null;
  state: string;
}

export interface Migration {
  id: string;
  state: string;
}

/** A CloudEvent; `sequence` is its cursor. */
export interface Event {
  id: string;
  type: string;
  subject: string;
  time: string;
  sequence: string;
  data: unknown;
}
