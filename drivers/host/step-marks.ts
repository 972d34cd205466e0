import { join } from 'node:path';
import { z } from 'zod';
import type { StepMarks } from '../ports/step-marks.ts';
import { readText, replaceAtomically } from './files.ts';

const marksSchema = z.array(
  z.strictObject({
    vmId: z.string(),
    step: z.string(),
    open: z.boolean(),
    alone: z.boolean(),
    crashes: z.int().min(0),
    sinceMs: z.number(),
  }),
);

/** A file of the host's disk. Not durable: a power cut ends the host, and no step is to blame for that. */
export function openStepMarks(root: string): StepMarks {
  const path = join(root, 'steps.json');
  let saving: Promise<void> = Promise.resolve();
  return {
    async load() {
      const text = await readText(path);
      return text === null ? [] : marksSchema.parse(JSON.parse(text));
    },
    save(marks) {
      const text = `${JSON.stringify(marks)}\n`;
      saving = saving.catch(() => undefined).then(() => replaceAtomically(path, text));
      return saving;
    },
  };
}
