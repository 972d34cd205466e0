import { relative } from 'node:path';
import { BaseSequencer, type TestSpecification } from 'vitest/node';
import { projects } from '../../test/projects.ts';

/**
 * Starts the files that a project names as its longest before its others, so that its workers end at the same time. vitest
 * knows durations from its cache, which a clean checkout does not have; there it begins with the largest files.
 */
export default class LongestFirst extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    const sorted = await super.sort(files);
    // Projects are apart in what is sorted, and stay so.
    const names = [...new Set(sorted.map(({ project }) => project.name))];
    return names.flatMap((name) =>
      sorted.filter(({ project }) => project.name === name).toSorted((a, b) => rankOf(a) - rankOf(b)),
    );
  }
}

function rankOf({ project, moduleId }: TestSpecification): number {
  const longest = projects[project.name]?.longest ?? [];
  const rank = longest.indexOf(relative('test', moduleId));
  return rank === -1 ? longest.length : rank;
}
