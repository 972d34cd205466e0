/** A step that may end its worker: whether it runs, and how often it ended one. */
export interface StepMark {
  vmId: string;
  step: string;
  /** It runs in the worker that wrote this, or ran when that ended. */
  open: boolean;
  /** It runs while no other marked step does. */
  alone: boolean;
  /** How many workers have crashed in it. */
  crashes: number;
  sinceMs: number;
}

/** The marks of a host, which outlast its worker. */
export interface StepMarks {
  load(): Promise<StepMark[]>;
  /** All of them, atomically. */
  save(marks: StepMark[]): Promise<void>;
}
