import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type JobRunner, parseJobStatus, programJobRunner, scriptEnv, scriptJobRunner } from '../../drivers/guest/guest-job.ts';
import { Machine } from './machine.ts';

/**
 * In a guest of ours, where both can run; on the build machine test/unit/drivers/guest/guest-job.test.ts covers all that
 * they promise.
 */
let machine: Machine;
beforeAll(async () => {
  machine = await Machine.start();
  await machine.untilAgent();
});
afterAll(() => machine.stop());

const tools: [string, JobRunner][] = [
  ['the program', programJobRunner()],
  ['the script', scriptJobRunner],
];

describe.each(tools)('a command that is run by %s', (name, tool) => {
  const place = { folder: `/run/berth/${name.replace(' ', '-')}`, home: '/root', graceS: 1 };
  const exec = ([path = '', ...args]: string[]) => machine.exec(['/usr/bin/env', '-i', ...scriptEnv, path, ...args]);

  test('runs to its end, and records this in its folder', async () => {
    const job = { argv: ['sh', '-c', 'echo $A; exit 3'], env: { A: 'four' }, timeoutS: 30, logLimitBytes: 100 };
    expect(await exec(tool.start(job, place))).toMatchObject({ exitCode: 0, stderr: '' });
    const drained = `until [ -e ${place.folder}/drained ]; do sleep 0.05; done`;
    expect(await machine.shell(`${drained}; cat ${place.folder}/log`)).toBe('four');
    const status = `${await machine.shell(`cat ${place.folder}/status`)}\n`;
    expect(parseJobStatus(status, 'sh')).toMatchObject({ kind: 'exited', exitCode: 3, timedOut: false, stopped: false });
  });

  test('is not started after a stop', async () => {
    const stopped = { ...place, folder: `${place.folder}-stopped` };
    expect(await exec(tool.stop(stopped))).toMatchObject({ exitCode: 0 });
    const job = { argv: ['touch', '/run/started'], env: {}, timeoutS: 30, logLimitBytes: 100 };
    expect(await exec(tool.start(job, stopped))).toMatchObject({ exitCode: 0 });
    expect(await machine.shell('[ -e /run/started ] || echo no')).toBe('no');
  });
});
