import { expect, it } from 'vitest';
import { configurationDocument } from '../../../infra/docs/configuration.ts';
import { filesBeneath, productFolders, readText } from './source-files.ts';

it('docs/configuration.md matches model/config.ts (if not: npm run docs)', () => {
  expect(readText('docs/configuration.md')).toBe(configurationDocument());
});

it('every variable of model/config.ts has a description', () => {
  expect(configurationDocument()).not.toMatch(/\| \|$/m);
});

it('docs/configuration.md has every variable that the product, the site and the tests read', () => {
  const documented = readText('docs/configuration.md');
  const read = [...productFolders, 'infra', 'test'].flatMap((folder) =>
    filesBeneath(folder, '.ts').flatMap((file) =>
      [...readText(file).matchAll(/env\.(BERTH_\w+|DATABASE_URL)/g)].map((match) => match[1]!),
    ),
  );
  expect(read.length).toBeGreaterThan(5);
  expect([...new Set(read)].filter((variable) => !documented.includes(`\`${variable}\``))).toEqual([]);
});
