import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { mutations } from '../mutations/mutations.ts';
import { projects } from '../projects.ts';

/** A full run breaks the code that holds a guarantee; code that has moved, or that is not in force any more, shows here at once. */
const inMigrations = mutations.filter(({ file }) => file.startsWith('prisma/migrations/'));
const migrations = readdirSync('prisma/migrations').filter((name) => /^\d/.test(name));
const definition = /CREATE (?:OR REPLACE )?((?:FUNCTION|TRIGGER) [\w"]+)/g;
const definitionOrEnd = /(?:CREATE (?:OR REPLACE )?|DROP )((?:FUNCTION|TRIGGER) [\w"]+)/g;

test.each(mutations)('the code that holds is there once, and so is its test: $guarantee', ({ file, find, project, test }) => {
  expect(readFileSync(file, 'utf8').split(find), `${file} has the text once`).toHaveLength(2);
  expect(Object.keys(projects)).toContain(project);
  expect(existsSync(`test/${test}`), `test/${test}`).toBe(true);
});

test.each(inMigrations)('no later migration has replaced the code that holds: $guarantee', ({ file, find }) => {
  const [until] = readFileSync(file, 'utf8').split(find) as [string];
  const name = [...`${until}${find}`.matchAll(definition)].at(-1)?.[1];
  expect(name).toBeDefined();
  const replacing = migrations.filter((other) => {
    const path = `prisma/migrations/${other}/migration.sql`;
    if (path <= file) return false;
    return [...readFileSync(path, 'utf8').matchAll(definitionOrEnd)].some(([, changed]) => changed === name);
  });
  expect(replacing, `${name} of ${file}`).toEqual([]);
});
