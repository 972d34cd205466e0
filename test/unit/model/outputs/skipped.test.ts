import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  describeLost,
  noneSkipped,
  type SkippedFile,
  skip,
  skippedOfTask,
  skipReasons,
} from '../../../../model/outputs/skipped.ts';

const row = (path: string, reason: SkippedFile['reason']): SkippedFile => ({ path, reason, detail: 'found' });

describe('skipped files', () => {
  it('that are lost are listed before those that have no content of their own', () => {
    const skipped = noneSkipped();
    for (let index = 0; index < 100; index += 1) skip(skipped, row(`link${index}`, 'symbolic-link'));
    skip(skipped, row('lost', 'damaged'));
    expect([skipped.count, skipped.lost, skipped.listed.length]).toEqual([101, 1, 30]);
    expect(skipped.listed.at(-1)).toMatchObject({ path: 'lost' });
    const ofTask = skippedOfTask([noneSkipped(), skipped]);
    expect(ofTask.listed[0]).toMatchObject({ path: 'lost', node: 1 });
    expect([ofTask.count, ofTask.lost]).toEqual([101, 1]);
  });

  it('are told in a message with the first of them, and the number of the others', () => {
    const skipped = noneSkipped();
    for (const path of ['a', 'b', '', 'd', 'e']) skip(skipped, row(path, 'too-large'));
    skip(skipped, row('', 'too-many-files'), 7);
    expect(describeLost(skippedOfTask([skipped]))).toBe(
      'Outputs were not stored: "a": found; "b": found; /home/task: found; and 9 more. The others were; skippedOutputs has the reasons',
    );
  });

  it('of all nodes of a task fit into a payload, whatever their names are', () => {
    const files = fc.array(
      fc.record({
        path: fc.string({ unit: 'binary', maxLength: 600 }),
        reason: fc.constantFrom(...skipReasons),
        detail: fc.string({ unit: 'binary', maxLength: 600 }),
      }),
      { minLength: 20, maxLength: 60 },
    );
    const property = fc.property(files, (found) => {
      const nodes = Array.from({ length: 64 }, () => {
        const skipped = noneSkipped();
        for (const file of found) skip(skipped, file);
        return skipped;
      });
      for (const { listed, count, lost } of nodes) {
        expect(Buffer.byteLength(JSON.stringify(listed))).toBeLessThan(100 * 1024);
        expect([count, lost <= count]).toEqual([found.length, true]);
      }
      expect(Buffer.byteLength(JSON.stringify(skippedOfTask(nodes)))).toBeLessThan(160 * 1024);
    });
    fc.assert(property, { numRuns: 20 });
  });
});
