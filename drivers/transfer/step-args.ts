import { readFile } from 'node:fs/promises';
import { type Dispatcher, request } from 'undici';
import { z } from 'zod';
import type { FetchedStep, FetchedStepArgs, VmRef } from '../../contracts/host-calls.ts';
import { BerthError, isErrorCode } from '../../model/errors.ts';
import { messageOf } from '../host/files.ts';

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

/**
 * Fetches from the API what a step on this host needs. Where the API does not answer, or does not accept the key,
 * `orders-unavailable`: the saga repeats the step without limit. A refusal by the ledger has its own code.
 */
export function openStepArgs(dispatcher: Dispatcher, { repositoryUrl, hostId, keyFile }: StepArgsOptions) {
  /** The list of hosts as it was answered last. */
  let known: { version: string; addresses: string[] } = { version: 'none', addresses: [] };
  return async (vm: VmRef, step: FetchedStep, signal: AbortSignal): Promise<FetchedStepArgs> => {
    const act = `fetching the arguments of ${step} for ${vm.id}`;
    const sent = known;
    const url = new URL(
      `/internal/hosts/${hostId}/orders/${vm.id}/${vm.generation}?step=${step}&hosts=${sent.version}`,
      repositoryUrl,
    );
    const { status, text } = await ask(act, dispatcher, url, keyFile, signal);
    if (status === 200) {
      const { hosts, ...args } = JSON.parse(text) as FetchedStepArgs;
      // An API of before sends them with the VM.
      if (hosts === undefined) return args;
      const addresses = hosts.addresses ?? (hosts.version === sent.version ? sent.addresses : null);
      if (addresses === null)
        throw unavailable(`${act}: ${url.host} left out the list of hosts ${hosts.version}, to a request with ${sent.version}`);
      known = { version: hosts.version, addresses };
      const peers = addresses.filter((address) => address !== hosts.here);
      return { ...args, vm: { ...args.vm, network: { ...args.vm.network, peers } } };
    }
    const problem = problemSchema.safeParse(parseJson(text));
    if (status >= 500 || status === 401 || status === 403 || status === 429 || !problem.success)
      throw unavailable(`${act}: ${url.host} answered ${status}${status === 401 ? '; see BERTH_HOST_KEY_FILE' : ''}`);
    throw new BerthError(problem.data.code, `${act}: ${problem.data.detail}`);
  };
}

async function ask(act: string, dispatcher: Dispatcher, url: URL, keyFile: string, signal: AbortSignal) {
  try {
    const key = (await readFile(keyFile, 'utf8')).trim();
    const { statusCode, body } = await request(url, {
      dispatcher,
      signal,
      headers: { authorization: `Bearer ${key}` },
      headersTimeout: timeoutMs,
      bodyTimeout: timeoutMs,
    });
    let text = '';
    for await (const chunk of body.setEncoding('utf8')) {
      text += String(chunk);
      if (text.length > maxAnswerBytes) throw unavailable(`${act}: ${url.host} answered more than ${maxAnswerBytes} bytes`);
    }
    return { status: statusCode, text };
  } catch (error) {
    signal.throwIfAborted();
    if (error instanceof BerthError) throw error;
    throw unavailable(`${act} at ${url.host}: ${messageOf(error)}`, error);
  }
}

const unavailable = (message: string, cause?: unknown): BerthError => new BerthError('orders-unavailable', message, { cause });

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}
