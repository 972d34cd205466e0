import type { StepMarks } from '../ports/step-marks.ts';
import type { FakeState } from './state.ts';

export const createFakeStepMarks = (state: FakeState): StepMarks => ({
  load: async () => structuredClone(state.stepMarks),
  async save(marks) {
    state.stepMarks.splice(0, state.stepMarks.length, ...structuredClone(marks));
  },
});
