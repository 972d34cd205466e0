import { ApplicationFailure, CancellationScope, sleep } from '@temporalio/workflow';
import { allOrCancel, withTimeout } from '../../workflows/durable/cancellation-scopes.ts';
import { Saga } from '../../workflows/durable/saga.ts';

/** The steps and the undos that fail the first time. */
export interface Script {
  acts: string[];
  undos: string[];
}

const failure = (what: string) => ApplicationFailure.nonRetryable(what);

/** Three steps, then the unwinding, twice if the first one got stuck; returns the order of the calls. */
export async function threeSteps(script: Script): Promise<string[]> {
  const log: string[] = [];
  const undone = new Set<string>();
  const saga = new Saga();
  try {
    for (const name of ['one', 'two', 'three'])
      await saga.step(
        name,
        async () => {
          log.push(`act ${name}`);
          if (script.acts.includes(name)) throw failure(name);
        },
        async () => {
          log.push(`undo ${name}`);
          if (script.undos.includes(name) && !undone.has(name)) {
            undone.add(name);
            throw failure(name);
          }
        },
      );
  } catch (error) {
    log.push(`failed ${(error as Error).message}`);
  }
  const stuck = await saga.unwind();
  if (stuck === null) return log;
  log.push(`stuck ${stuck.step}`);
  await saga.unwind();
  return log;
}

/** Is cancelled in its step; the undo takes a timer, which a cancellation would end. */
export async function cancelledStep(): Promise<string[]> {
  const log: string[] = [];
  const saga = new Saga();
  const act = () => sleep('1 hour');
  const undo = async () => {
    await sleep(10);
    log.push('undone');
  };
  try {
    await saga.step('wait', act, undo);
  } catch {
    log.push(`cancelled ${CancellationScope.current().consideredCancelled}`);
  }
  await saga.unwind();
  return log;
}

/** One of three fails; the others are stopped, and have stopped when the failure arrives. */
export async function oneOfThreeFails(): Promise<string[]> {
  const log: string[] = [];
  const slow = (name: string) => async () => {
    try {
      await sleep('1 hour');
    } finally {
      await CancellationScope.nonCancellable(() => sleep(10));
      log.push(`${name} stopped`);
    }
  };
  const fails = async () => {
    await sleep(10);
    throw failure('the second');
  };
  try {
    await allOrCancel<void>([slow('first'), fails, slow('third')]);
  } catch (error) {
    log.push((error as Error).message);
  }
  return log;
}

export async function tooLate(): Promise<string[]> {
  const log: string[] = [];
  const act = async () => {
    try {
      await sleep('1 hour');
    } finally {
      log.push('stopped');
    }
  };
  try {
    await withTimeout(20, () => failure('late'), act);
  } catch (error) {
    log.push((error as Error).message);
  }
  log.push(
    await withTimeout(
      60_000,
      () => failure('late'),
      async () => 'in time',
    ),
  );
  return log;
}
