import type { FuzzTarget } from '../target.ts';
import { domainStatsTarget, machineCountersTarget } from './counters.ts';
import { createExt4Target } from './ext4.ts';
import { agentReplyTarget, createQcow2Target, guestStatusTarget, jsonBodyTarget, patternTarget, rangeTarget } from './parsers.ts';
import { clientFramesTarget, consoleFramesTarget, hostFramesTarget } from './relayed-frames.ts';
import { edgeOrdersTarget, execQueryTarget, portRequestTarget } from './requests.ts';
import { streamFramesTarget } from './stream-frames.ts';

/** Parsers of what clients and guests send. */
export const fuzzTargets: Record<string, () => FuzzTarget> = {
  ext4: createExt4Target,
  qcow2: createQcow2Target,
  'guest-status': guestStatusTarget,
  'agent-reply': agentReplyTarget,
  'json-body': jsonBodyTarget,
  pattern: patternTarget,
  range: rangeTarget,
  'stream-frames': streamFramesTarget,
  'client-frames': clientFramesTarget,
  'console-frames': consoleFramesTarget,
  'host-frames': hostFramesTarget,
  'exec-query': execQueryTarget,
  'port-request': portRequestTarget,
  'edge-orders': edgeOrdersTarget,
  'domain-stats': domainStatsTarget,
  'machine-counters': machineCountersTarget,
};
