import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { defaultPayloadConverter } from '@temporalio/common';
import proto from '@temporalio/proto';
import { expect, test } from 'vitest';
import { simulate } from './simulation.ts';

const { History } = proto.temporal.api.history.v1;
const folder = join(import.meta.dirname, '..', 'replay', 'histories');

/** The results of a recorded run's activities, by name, in their order. */
async function recorded(name: string) {
  const { workflowId, history } = JSON.parse(await readFile(join(folder, `${name}.json`), 'utf8'));
  const events = History.fromObject(history).events ?? [];
  const results = new Map<string, unknown[]>();
  const scheduled = new Map<string, string>();
  const add = (activity: string, result: proto.temporal.api.common.v1.IPayload | undefined): void => {
    const value = result === undefined ? undefined : defaultPayloadConverter.fromPayload(result);
    results.set(activity, [...(results.get(activity) ?? []), value]);
  };
  for (const event of events) {
    const { activityTaskScheduledEventAttributes: began, activityTaskCompletedEventAttributes: ended } = event;
    if (began != null) scheduled.set(String(event.eventId), began.activityType?.name ?? '');
    if (ended != null) add(scheduled.get(String(ended.scheduledEventId)) ?? '', ended.result?.payloads?.[0]);
    const marker = event.markerRecordedEventAttributes;
    if (marker?.markerName !== 'core_local_activity') continue;
    const data = JSON.parse(Buffer.from(marker.details?.data?.payloads?.[0]?.data ?? []).toString());
    add(data.activity_type, marker.details?.result?.payloads?.[0]);
  }
  const start = events[0]?.workflowExecutionStartedEventAttributes;
  const args = (start?.input?.payloads ?? []).map((payload) => defaultPayloadConverter.fromPayload(payload));
  return { workflowId, type: start?.workflowType?.name ?? '', args, events: events.length, results };
}

// The server joins workflow tasks where several things happen at about the same time.
test.each(['runTask-succeeded', 'runTask-failed', 'retireImage', 'migrateVm-disks', 'buildImage-ready'])(
  'counts the events of %s as the server did, within a tenth or three',
  async (name) => {
    const { workflowId, type, args, events, results } = await recorded(name);
    const answer = ({ name: activity }: { name: string }) => {
      const left = results.get(activity);
      if (left === undefined || left.length === 0) throw new Error(`nothing is recorded of ${activity}`);
      return left.shift();
    };
    const simulated = await simulate({ type, id: workflowId, args, answer }, 3_600_000);
    expect(simulated.end).toBe('completed');
    expect(Math.abs(simulated.events - events)).toBeLessThanOrEqual(Math.max(3, events / 10));
  },
);
