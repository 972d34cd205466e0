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

  test('that prints more than its log holds has its end in a ring, where the program runs it', async () => {
    const long = { ...place, folder: `${place.folder}-long` };
    const job = { argv: ['sh', '-c', 'seq 1 2000; kill -TERM $$'], env: {}, timeoutS: 30, logLimitBytes: 1024 };
    expect(await exec(tool.start(job, long))).toMatchObject({ exitCode: 0, stderr: '' });
    await machine.shell(`until [ -e ${long.folder}/drained ]; do sleep 0.05; done`);
    const end = parseJobStatus(`${await machine.shell(`cat ${long.folder}/status`)}\n`, 'sh');
    const ofScript = { kind: 'exited', exitCode: 143, signal: 'unknown', logBytes: null, tail: null };
    if (name === 'the script') return expect(end).toMatchObject(ofScript);
    const output = Array.from({ length: 2000 }, (_, index) => `${index + 1}\n`).join('');
    const from = (output.length - 768) % 256;
    const tail = { leftOutBytes: output.length - 1024, bytes: 256, from };
    expect(end).toMatchObject({ kind: 'exited', exitCode: 143, signal: 15, logBytes: 768, tail });
    const ring = `tail -c +${from + 1} ${long.folder}/tail; head -c ${from} ${long.folder}/tail`;
    expect(`${await machine.shell(`( ${ring} ) | tail -n 2`)}\n`).toBe('1999\n2000\n');
  });

  test('is not started after a stop', async () => {
    const stopped = { ...place, folder: `${place.folder}-stopped` };
    expect(await exec(tool.stop(stopped))).toMatchObject({ exitCode: 0 });
    const job = { argv: ['touch', '/run/started'], env: {}, timeoutS: 30, logLimitBytes: 100 };
    expect(await exec(tool.start(job, stopped))).toMatchObject({ exitCode: 0 });
    expect(await machine.shell('[ -e /run/started ] || echo no')).toBe('no');
  });
});
