import type { FuzzTarget } from '../target.ts';
import { createExt4Target } from './ext4.ts';
import { agentReplyTarget, createQcow2Target, guestStatusTarget, jsonBodyTarget, patternTarget, rangeTarget } from './parsers.ts';
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
};
