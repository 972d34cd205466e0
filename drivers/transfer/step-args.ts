import type { Dispatcher } from 'undici';
import { z } from 'zod';
import type { FetchedStep, FetchedStepArgs, VmRef } from '../../contracts/host-calls.ts';
import { BerthError, isErrorCode } from '../../model/errors.ts';
import { messageOf } from '../host/files.ts';
import { askApi } from './ask-api.ts';
import type { MachineList } from './machine-list.ts';

const timeoutMs = 10_000;
/** Of what a task's step needs at most: model/input/order-size.ts bounds it over all nodes. */
const maxAnswerBytes = 32 * 1024 * 1024;

const problemSchema = z.object({ code: z.string().refine(isErrorCode), detail: z.string() });

export interface StepArgsOptions {
  /** Base URL of the API. */
  repositoryUrl: string;
  hostId: string;
  /** File with this host's key; read at each call, so that a replaced key needs no restart. */
  keyFile: string;
}

/** What a host asks the API with its own key. */
export interface StepArgsFetcher {
  /**
   * What a step on this host needs. Where the API does not answer, or does not accept the key, `orders-unavailable`: the saga
   * repeats the step without limit. A refusal by the ledger has its own code.
   */
  fetchStepArgs(vm: VmRef, step: FetchedStep, signal: AbortSignal): Promise<FetchedStepArgs>;
  /** Brings the list of machines up to date. Throws orders-unavailable. */
  updateMachines(signal: AbortSignal): Promise<void>;
}

/** @param machines is kept up to date by every answer */
export function openStepArgs(dispatcher: Dispatcher, options: StepArgsOptions, machines: MachineList): StepArgsFetcher {
  const { repositoryUrl, hostId, keyFile } = options;
  const access = { dispatcher, keyFile, maxAnswerBytes };
  const get = async <T>(act: string, path: string, signal: AbortSignal): Promise<T> => {
    const url = new URL(`/internal/hosts/${hostId}/${path}`, repositoryUrl);
    const { status, text } = await askApi(access, url, { signal, timeoutMs }).catch((error: unknown) => {
      signal.throwIfAborted();
      throw unavailable(`${act} at ${url.host}: ${messageOf(error)}`, error);
    });
    const answer = parseJson(text);
    if (status === 200) {
      if (typeof answer === 'object' && answer !== null) return answer as T;
      throw unavailable(`${act}: ${url.host} answered what is no JSON object`);
    }
    const problem = problemSchema.safeParse(answer);
    if (status >= 500 || status === 401 || status === 403 || status === 429 || !problem.success)
      throw unavailable(`${act}: ${url.host} answered ${status}${status === 401 ? '; see BERTH_HOST_KEY_FILE' : ''}`);
    throw new BerthError(problem.data.code, `${act}: ${problem.data.detail}`);
  };
  const take = (act: string, answer: unknown, known: string): void => {
    if (!machines.take(answer))
      throw unavailable(`${act}: the list of machines was left out, or is none, to a request with ${known}`);
  };
  return {
    async fetchStepArgs(vm, step, signal) {
      const act = `fetching the arguments of ${step} for ${vm.id}`;
      const { version } = machines;
      const path = `orders/${vm.id}/${vm.generation}?step=${step}&hosts=${version}`;
      const { hosts, ...args } = await get<FetchedStepArgs & { hosts: unknown }>(act, path, signal);
      take(act, hosts, version);
      return args;
    },
    async updateMachines(signal) {
      const act = 'fetching the list of machines';
      const { version } = machines;
      take(act, await get<object>(act, `machines?known=${version}`, signal), version);
    },
  };
}

const unavailable = (message: string, cause?: unknown): BerthError => new BerthError('orders-unavailable', message, { cause });

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}
