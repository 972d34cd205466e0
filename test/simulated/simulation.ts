import { defaultFailureConverter, defaultPayloadConverter } from '@temporalio/common';
import {
  visit,
  walkWorkflowActivation,
  walkWorkflowActivationCompletion,
} from '@temporalio/common/lib/internal-non-workflow/index.js';
import { msToTs, tsToMs } from '@temporalio/common/lib/time.js';
import proto, { type coresdk, type temporal } from '@temporalio/proto';
import { toFailure } from '../../activities/failure.ts';
import { createWorkflow, type SimulatedRun } from './simulated-run.ts';

/** What a server does after so many events, as `limit.historyCount.suggestContinueAsNew` of Temporal's server. */
const suggestedEvents = 4096;
/** What an activity on a host takes, unless its answer says otherwise. */
const activityMs = 50;

type Payload = temporal.api.common.v1.IPayload;
type Job = coresdk.workflow_activation.IWorkflowActivationJob;
type Command = coresdk.workflow_commands.IWorkflowCommand;

/** The answer of an activity that takes its time; `forever`: until it is cancelled. */
export class After {
  readonly ms: number;
  readonly result: unknown;
  constructor(ms: number, result?: unknown) {
    this.ms = ms;
    this.result = result;
  }
}
export const forever = new After(Number.POSITIVE_INFINITY);
/** No worker takes the activity from its queue. */
export const untaken = Symbol('untaken');

export interface Call {
  name: string;
  args: unknown[];
  /** ms since 1970, in the simulation's time. */
  nowMs: number;
}

export interface SimulatedWorkflow {
  type: string;
  id: string;
  args: unknown[];
  /** The result of an activity, After or untaken; what it throws is the activity's failure. */
  answer: (call: Call) => unknown;
  /** Whether a workflow that is to be started runs already. */
  isRunning?: (id: string) => boolean;
  signals?: { name: string; everyMs: number; args?: unknown[] }[];
}

export interface Simulated {
  /** `running`: at the end of the simulated time. */
  end: 'running' | 'completed' | 'failed';
  result: unknown;
  runs: number;
  /** Of all runs. */
  events: number;
  /** Of the longest run. */
  longestHistory: number;
  largestPayload: { bytes: number; of: string };
  /** How long it ran, in ms. */
  ms: number;
  started: string[];
}

interface Due {
  atMs: number;
  events: number;
  job: Job;
  /** Kind and number of what it ends. */
  key: string;
}

/**
 * Runs a workflow's bundled code without a server, for as long a time as is wanted: each wait ends at once, and the
 * simulation counts the events that Temporal's server would write, and the largest payload of a command or a result. What it
 * counts is compared with recorded histories in simulation.test.ts.
 */
export async function simulate(workflow: SimulatedWorkflow, durationMs: number): Promise<Simulated> {
  const simulation = new Simulation(workflow, durationMs);
  return simulation.run();
}

class Simulation {
  readonly #workflow: SimulatedWorkflow;
  readonly #startMs = Date.UTC(2026, 0, 1);
  readonly #untilMs: number;
  readonly #outcome: Simulated;
  #nowMs = this.#startMs;
  #nextSignalsMs: number[];
  /** Of the current run. */
  #events = 0;
  #due: Due[] = [];
  #jobs: Job[] = [];
  #run: SimulatedRun | null = null;
  #args: Payload[];

  constructor(workflow: SimulatedWorkflow, durationMs: number) {
    this.#workflow = workflow;
    this.#untilMs = this.#startMs + durationMs;
    this.#args = workflow.args.map((arg) => defaultPayloadConverter.toPayload(arg));
    this.#nextSignalsMs = (workflow.signals ?? []).map(({ everyMs }) => this.#startMs + everyMs);
    this.#outcome = {
      end: 'running',
      result: undefined,
      runs: 0,
      events: 0,
      longestHistory: 0,
      largestPayload: { bytes: 0, of: '' },
      ms: 0,
      started: [],
    };
  }

  async run(): Promise<Simulated> {
    await this.#begin();
    while (this.#run !== null && (this.#jobs.length > 0 || this.#advance())) await this.#workflowTask();
    await this.#run?.dispose();
    this.#close();
    this.#outcome.ms = Math.min(this.#nowMs, this.#untilMs) - this.#startMs;
    return this.#outcome;
  }

  async #begin(): Promise<void> {
    this.#outcome.runs += 1;
    const runId = `run-${this.#outcome.runs}`;
    const { type, id } = this.#workflow;
    this.#events = 1;
    this.#due = [];
    this.#run = await createWorkflow({ type, id, runId, nowMs: this.#nowMs });
    this.#jobs = [
      {
        initializeWorkflow: {
          workflowType: type,
          workflowId: id,
          arguments: this.#args,
          firstExecutionRunId: 'run-1',
          attempt: 1,
          startTime: msToTs(this.#nowMs),
          workflowTaskTimeout: msToTs(10_000),
        },
      },
    ];
  }

  #close(): void {
    this.#outcome.events += this.#events;
    this.#outcome.longestHistory = Math.max(this.#outcome.longestHistory, this.#events);
  }

  /** Passes time until something is due. @returns false: nothing is, within the simulated time */
  #advance(): boolean {
    const atMs = Math.min(...this.#due.map((due) => due.atMs), ...this.#nextSignalsMs);
    if (atMs >= this.#untilMs) {
      this.#nowMs = this.#untilMs;
      return false;
    }
    this.#nowMs = Math.max(this.#nowMs, atMs);
    for (const { events, job } of this.#due.filter((due) => due.atMs <= atMs)) {
      this.#events += events;
      this.#jobs.push(job);
    }
    this.#due = this.#due.filter((due) => due.atMs > atMs);
    for (const [index, { name, everyMs, args = [] }] of (this.#workflow.signals ?? []).entries()) {
      if (this.#nextSignalsMs[index]! > atMs) continue;
      this.#nextSignalsMs[index] = atMs + everyMs;
      this.#events += 1;
      const input = args.map((arg) => defaultPayloadConverter.toPayload(arg));
      this.#jobs.push({ signalWorkflow: { signalName: name, input, identity: 'simulation', headers: {} } });
    }
    return true;
  }

  /** One workflow task: the activation, and one for each result of a local activity. */
  async #workflowTask(): Promise<void> {
    this.#events += 2;
    // The markers and the other commands are written when the task is completed.
    let written = 1;
    let jobs = this.#jobs;
    this.#jobs = [];
    const run = this.#run;
    while (jobs.length > 0 && this.#run !== null) {
      const commands = await this.#activate(jobs);
      jobs = [];
      for (const command of commands) {
        const { events, job } = await this.#apply(command);
        written += events;
        if (job !== null) jobs.push(job);
      }
    }
    this.#events += written;
    // The SDK keeps each run until then: a month of a loop is thousands.
    if (this.#run === null) await run?.dispose();
    if (this.#run === null && this.#outcome.end === 'running') {
      this.#close();
      await this.#begin();
    }
  }

  async #activate(jobs: Job[]): Promise<Command[]> {
    const activation = proto.coresdk.workflow_activation.WorkflowActivation.fromObject({
      runId: `run-${this.#outcome.runs}`,
      timestamp: msToTs(this.#nowMs),
      isReplaying: false,
      historyLength: this.#events,
      continueAsNewSuggested: this.#events >= suggestedEvents,
      jobs,
    });
    await visit(activation, walkWorkflowActivation, this.#measure(Object.keys(jobs[0] ?? {})[0] ?? ''));
    const { successful, failed } = await this.#run!.activate(activation);
    if (failed != null) throw new Error(`a workflow task of ${this.#workflow.type} failed: ${failed.failure?.message}`);
    return successful?.commands ?? [];
  }

  #measure(of: string) {
    const note = (payload: Payload): Payload => {
      const bytes = payload.data?.length ?? 0;
      if (bytes > this.#outcome.largestPayload.bytes) this.#outcome.largestPayload = { bytes, of };
      return payload;
    };
    return {
      initialContext: undefined,
      transformPayload: async (payload: Payload) => note(payload),
      transformPayloads: async (payloads: Payload[]) => payloads.map(note),
    };
  }

  /** @returns the events that the command writes at once, and the job that follows within the same workflow task */
  async #apply(command: Command): Promise<{ events: number; job: Job | null }> {
    const of = command.scheduleActivity?.activityType ?? command.scheduleLocalActivity?.activityType ?? Object.keys(command)[0]!;
    const completion = { runId: '', successful: { commands: [command] } };
    await visit(
      proto.coresdk.workflow_completion.WorkflowActivationCompletion.fromObject(completion),
      walkWorkflowActivationCompletion,
      this.#measure(of),
    );
    const later = (key: string, afterMs: number, events: number, job: Job): void => {
      this.#due.push({ key, atMs: this.#nowMs + afterMs, events, job });
    };
    const isDone = { events: 1, job: null };
    if (command.startTimer != null) {
      const { seq, startToFireTimeout } = command.startTimer;
      later(`timer ${seq}`, tsToMs(startToFireTimeout!), 1, { fireTimer: { seq: seq! } });
      return isDone;
    }
    if (command.cancelTimer != null) {
      this.#drop(`timer ${command.cancelTimer.seq}`);
      return isDone;
    }
    if (command.scheduleLocalActivity != null) return { events: 1, job: await this.#runLocally(command.scheduleLocalActivity) };
    if (command.scheduleActivity != null) {
      const { afterMs, job } = await this.#schedule(command.scheduleActivity);
      later(`activity ${command.scheduleActivity.seq}`, afterMs, 2, job);
      return isDone;
    }
    if (command.requestCancelActivity != null) {
      const { seq } = command.requestCancelActivity;
      this.#drop(`activity ${seq}`);
      later(`activity ${seq}`, 0, 1, { resolveActivity: { seq: seq!, result: { cancelled: { failure: cancelled } } } });
      return isDone;
    }
    if (command.signalExternalWorkflowExecution != null) {
      const { seq } = command.signalExternalWorkflowExecution;
      later(`signal ${seq}`, 0, 1, { resolveSignalExternalWorkflow: { seq: seq! } });
      return isDone;
    }
    if (command.requestCancelExternalWorkflowExecution != null) {
      const { seq } = command.requestCancelExternalWorkflowExecution;
      later(`cancellation ${seq}`, 0, 1, { resolveRequestCancelExternalWorkflow: { seq: seq! } });
      return isDone;
    }
    if (command.startChildWorkflowExecution != null) {
      later(`child ${command.startChildWorkflowExecution.seq}`, 0, 1, this.#startChild(command.startChildWorkflowExecution));
      return isDone;
    }
    if (command.upsertWorkflowSearchAttributes != null) return isDone;
    // The server writes the search attribute TemporalChangeVersion as well.
    if (command.setPatchMarker != null) return { events: 2, job: null };
    return this.#finish(command);
  }

  #finish(command: Command): { events: number; job: null } {
    const ended = { events: 1, job: null };
    this.#run = null;
    if (command.continueAsNewWorkflowExecution != null) {
      this.#args = command.continueAsNewWorkflowExecution.arguments ?? [];
      return ended;
    }
    if (command.completeWorkflowExecution != null) {
      const { result } = command.completeWorkflowExecution;
      this.#outcome.end = 'completed';
      this.#outcome.result = result == null ? undefined : defaultPayloadConverter.fromPayload(result);
      return ended;
    }
    if (command.failWorkflowExecution != null) {
      this.#outcome.end = 'failed';
      this.#outcome.result = command.failWorkflowExecution.failure?.message;
      return ended;
    }
    throw new Error(`the simulation does not know the command ${JSON.stringify(command)}`);
  }

  #drop(key: string): void {
    this.#due = this.#due.filter((due) => due.key !== key);
  }

  #startChild({ seq, workflowId, workflowType }: coresdk.workflow_commands.IStartChildWorkflowExecution): Job {
    if (this.#workflow.isRunning?.(workflowId!) === true) {
      const cause =
        proto.coresdk.child_workflow.StartChildWorkflowExecutionFailedCause
          .START_CHILD_WORKFLOW_EXECUTION_FAILED_CAUSE_WORKFLOW_ALREADY_EXISTS;
      return {
        resolveChildWorkflowExecutionStart: {
          seq: seq!,
          failed: { workflowId: workflowId!, workflowType: workflowType!, cause },
        },
      };
    }
    this.#outcome.started.push(workflowId!);
    return { resolveChildWorkflowExecutionStart: { seq: seq!, succeeded: { runId: 'child' } } };
  }

  async #runLocally({ seq, activityType, arguments: args }: coresdk.workflow_commands.IScheduleLocalActivity): Promise<Job> {
    const result = await this.#ask(activityType!, args ?? []);
    return { resolveActivity: { seq: seq!, isLocal: true, result: resultOf(activityType!, result) } };
  }

  async #schedule(command: coresdk.workflow_commands.IScheduleActivity): Promise<{ afterMs: number; job: Job }> {
    const { seq, activityType, arguments: args, scheduleToStartTimeout } = command;
    const answer = await this.#ask(activityType!, args ?? []);
    const job = (result: coresdk.activity_result.IActivityResolution): Job => ({ resolveActivity: { seq: seq!, result } });
    if ('value' in answer && answer.value === untaken) {
      if (scheduleToStartTimeout == null) return { afterMs: Number.POSITIVE_INFINITY, job: job({}) };
      return { afterMs: tsToMs(scheduleToStartTimeout), job: job({ failed: { failure: neverTaken(activityType!) } }) };
    }
    if ('value' in answer && answer.value instanceof After)
      return { afterMs: answer.value.ms, job: job(resultOf(activityType!, { value: answer.value.result })) };
    return { afterMs: activityMs, job: job(resultOf(activityType!, answer)) };
  }

  async #ask(name: string, args: Payload[]): Promise<{ value: unknown } | { error: unknown }> {
    const call = { name, args: args.map((arg) => defaultPayloadConverter.fromPayload(arg)), nowMs: this.#nowMs };
    try {
      return { value: await this.#workflow.answer(call) };
    } catch (error) {
      return { error };
    }
  }
}

type Failure = temporal.api.failure.v1.IFailure;

const failureOf = (error: unknown): Failure => defaultFailureConverter.errorToFailure(error, defaultPayloadConverter);

const inActivity = (activity: string, cause: Failure): Failure => ({
  message: 'Activity task failed',
  activityFailureInfo: { activityType: { name: activity }, activityId: '1', identity: 'simulation' },
  cause,
});

const cancelled: Failure = { message: 'cancelled', canceledFailureInfo: {} };

const neverTaken = (activity: string): Failure =>
  inActivity(activity, {
    message: 'activity timeout',
    timeoutFailureInfo: { timeoutType: proto.temporal.api.enums.v1.TimeoutType.TIMEOUT_TYPE_SCHEDULE_TO_START },
  });

function resultOf(
  activity: string,
  answer: { value: unknown } | { error: unknown },
): coresdk.activity_result.IActivityResolution {
  if ('error' in answer) return { failed: { failure: inActivity(activity, failureOf(toFailure(answer.error))) } };
  return { completed: { result: defaultPayloadConverter.toPayload(answer.value) } };
}
