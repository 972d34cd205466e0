import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { experiment3Names, generateTrace } from '../../scheduler/simulation/generate-trace.ts';
import { main } from '../../scheduler/simulation/simulate-command.ts';
import { readTrace } from '../../scheduler/simulation/trace-formats.ts';

const folder = mkdtempSync(join(tmpdir(), 'berth-simulate-'));
afterAll(() => rmSync(folder, { recursive: true }));

function run(...argv: string[]): { code: number; out: string[]; err: string[] } {
  const out: string[] = [];
  const err: string[] = [];
  const code = main(
    argv,
    (line) => out.push(line),
    (line) => err.push(line),
  );
  return { code, out, err };
}

const lwf = `<?xml version="1.0"?>
<lease-workload name="sample">
  <site><resource-types names="CPU Memory"/><nodes><node-set numnodes="4"><res type="CPU" amount="200"/><res type="Memory" amount="1024"/></node-set></nodes></site>
  <lease-requests>
    <lease-request arrival="00:00:10.00"><realduration time="00:05:00"/>
      <lease preemptible="true"><nodes><node-set numnodes="2"><res type="CPU" amount="100"/><res type="Memory" amount="512"/></node-set></nodes>
        <start/><duration time="00:10:00"/><software><disk-image id="foo.img" size="600"/></software></lease></lease-request>
    <lease-request arrival="00:00:20">
      <lease><nodes><node-set numnodes="1"><res type="CPU" amount="100"/><res type="Memory" amount="512"/></node-set></nodes>
        <start><exact time="01:00:00"/></start><duration time="00:30:00"/><software><none/></software></lease></lease-request>
  </lease-requests>
</lease-workload>`;

const swf = `; Version: 2.2
; MaxNodes: 4
; MaxProcs: 8
1 0 5 100 2 -1 -1 2 200 -1 1 1 1 1 1 -1 -1 -1
2 60 5 -1 -1 -1 -1 4 300 -1 0 1 1 1 1 -1 -1 -1`;

describe('traces', () => {
  it('are read in the Standard Workload Format', () => {
    const trace = readTrace(swf, 'log');
    expect(trace.hosts).toEqual({ count: 4, vcpus: 2, memoryMiB: 1024 });
    expect(trace.leases[0]).toMatchObject({
      kind: 'bestEffort',
      submittedAtS: 0,
      durationS: 200,
      actualDurationS: 100,
      nodes: 2,
    });
  });

  it('are read in Haizea’s lease workload format', () => {
    const trace = readTrace(lwf, 'sample');
    expect(trace.hosts).toEqual({ count: 4, vcpus: 2, memoryMiB: 1024 });
    expect(trace.leases).toMatchObject([
      { kind: 'bestEffort', submittedAtS: 10, durationS: 600, actualDurationS: 300, nodes: 2, image: 'foo.img', imageMiB: 600 },
      { kind: 'reservation', startAtS: 3600, durationS: 1800, nodes: 1, imageMiB: 0 },
    ]);
  });

  it('that are invalid are refused with the field and its value', () => {
    const wrong = (text: string) => () => readTrace(text, 'x');
    expect(wrong('{"name": "x"')).toThrow(/not JSON/);
    expect(wrong('{"name":"x","hosts":{"count":0,"vcpus":1,"memoryMiB":1},"leases":[]}')).toThrow(/\/hosts\/count: .*found 0/);
    expect(wrong('; MaxNodes: 1\n1 2 3')).toThrow(/line 2.*expected 18 fields; found 3/);
    expect(wrong('1 0 5 100 2 -1 -1 2 200 -1 1 1 1 1 1 -1 -1 -1')).toThrow(/MaxNodes/);
    expect(wrong('<lease-workload><site></lease-workload>')).toThrow(/line 1/);
    expect(wrong(lwf.replace('00:10:00', 'soon'))).toThrow(/lease-requests\/0\/duration: .*"soon"/);
  });

  it('are generated from a seed: the same one again, and others from another', () => {
    expect(experiment3Names()).toHaveLength(36);
    for (const name of ['I', 'II', 'III', 'IV', 'p4h_long_ar100_be25', 'acc_load60', 'scale_par_n8_l100']) {
      expect(generateTrace(name, 7)).toEqual(generateTrace(name, 7));
      expect(generateTrace(name, 7)).not.toEqual(generateTrace(name, 8));
    }
    expect(generateTrace('V', 1)).toBeNull();
  });
});

describe('npm run simulate', () => {
  it('prints one JSON object with the metrics by their names', () => {
    const { code, out } = run('--generate', 'p4h_short_ar025_be25', '--config', 'reuse-susp', '--json');
    expect(code).toBe(0);
    expect(out).toHaveLength(1);
    const metrics = JSON.parse(out[0]!);
    for (const key of [
      'all_be_completion_s',
      'util_useful',
      'wait_mean_s',
      'slowdown_mean',
      'ar_rejected',
      'image_transfers',
      'rejections',
      'preemptions',
      'leases',
    ]) {
      expect(metrics[key], key).toBeTypeOf('number');
    }
  });

  it('compares configurations side by side, and draws the first', () => {
    const svg = join(folder, 'out.svg');
    const { code, out } = run(
      '--generate',
      'III',
      '--compare',
      '--config',
      'VM_suspend_ov10,VM_suspend_cache_ov10',
      '--plot',
      svg,
    );
    expect(code).toBe(0);
    expect(out[0]).toMatch(/VM_suspend_ov10 +VM_suspend_cache_ov10/);
    expect(readFileSync(svg, 'utf8')).toMatch(/^<svg [\s\S]*<path [\s\S]*h7[\s\S]*<\/svg>\n$/);
  });

  it('reports what is wrong with its input and exits with 2', () => {
    const file = join(folder, 'bad.json');
    writeFileSync(file, '{"name":"x","hosts":{"count":1,"vcpus":1,"memoryMiB":1},"leases":[{"id":1,"kind":"reservation"}]}');
    expect(run('--trace', file)).toMatchObject({ code: 2 });
    expect(run('--trace', file).err.join('\n')).toContain('/leases/0/submittedAtS');
    expect(run('--generate', 'I', '--config', 'nonsense').err[0]).toContain('"nonsense"');
    expect(run('--trace', join(folder, 'missing')).err[0]).toContain('missing');
    expect(run().code).toBe(2);
  });
});
