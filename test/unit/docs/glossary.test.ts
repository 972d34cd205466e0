import { existsSync } from 'node:fs';
import { basename } from 'node:path';
import { describe, expect, it } from 'vitest';
import { searchAttributes, signalName, workflowType } from '../../../model/temporal.ts';
import { filesBeneath, identifiersOf, productFolders, readText, stripProse } from './source-files.ts';
import { readTables } from './tables.ts';

interface Entry {
  term: string;
  where: string[];
  retired: string[];
}

const glossary: Entry[] = readTables(readText('docs/glossary.md'), ['term', 'meaning', 'where', 'retired names']).map(
  ([term = '', , where = '', retired = '']) => ({
    term,
    where: where.split(', '),
    retired: [...retired.matchAll(/`([^`]+)`/g)].map((match) => match[1]!),
  }),
);
const retired = new Set(glossary.flatMap((entry) => entry.retired));
const sources = [...productFolders, 'infra', 'test'].flatMap((folder) => filesBeneath(folder, '.ts'));

/** `HTTPRequest` and `image-cache` as lower-case words, in the singular. */
const wordsOf = (name: string): string[] =>
  (name.match(/[A-Z]+(?![a-z])|[A-Z]?[a-z]+/g) ?? []).map((word) => singular(word.toLowerCase()));

const singular = (word: string): string =>
  word.length > 2 && word.endsWith('s') && !/(ss|us|is)$/.test(word)
    ? word.replace(/(?<=[^aeiou])ies$/, 'y').replace(/s$/, '')
    : word;

/** Words of programming, of English and of other fields' standards: no terms of Berth. */
const ordinary = new Set(
  `accept acceptance accepted access action answer api arg at attribute bare base bench berth body buffered build
  built byte cached call caller change choice classified client clock code config connection content context copy
  count create created customize damaged data decision delivery dep description disruption emit ended engine entry
  estimate fact failure fetch field filter fitted flatten flow follower forever found free global haizea handle header
  history holder http id idempotent in incoming input interval key kind layer limit log memory metered metric mode
  model moving name new of offered on option order out outcome outline output page part path persisting ping place
  placed point position prepare process query range read reader reason received ref remaining removal remove removed
  repeat repeating reported request reservable reserve reserved resolved response result row run scheduled schema session
  setting setup shape simulated source sparse staged start started state status stopped store stored string swept
  table target terminal tool total transaction type unpack version view viewer when wired writer`.split(/\s+/),
);

/** Verb forms of terms that the glossary has as nouns. */
const inflections = new Set(
  'aborted migrate migrated observe observed planned posted restore restored retired suspend term'.split(' '),
);

const exportedTypes = /^export (?:declare )?(?:abstract )?(?:interface|type|class|enum) ([A-Za-z]\w*)/gm;

describe('the glossary', () => {
  const known = new Set(glossary.flatMap((entry) => wordsOf(entry.term)));

  it('has every domain word of an exported type', () => {
    const missing = productFolders.flatMap((folder) =>
      filesBeneath(folder, '.ts').flatMap((file) =>
        [...stripProse(readText(file)).matchAll(exportedTypes)].flatMap(([, name = '']) =>
          wordsOf(name)
            .filter((word) => !known.has(word) && !ordinary.has(word) && !inflections.has(word))
            .map((word) => `${word}: ${name} of ${file}`),
        ),
      ),
    );
    expect(missing).toEqual([]);
  });

  it('has each term once, and no term among the retired names', () => {
    const terms = glossary.flatMap(({ term }) => term.split(', '));
    const allowedTwice = ['operation'];
    expect(terms.filter((term, index) => terms.indexOf(term) !== index)).toEqual(allowedTwice);
    expect(terms.filter((term) => retired.has(term))).toEqual([]);
  });

  it('names files that exist', () => {
    expect(glossary.flatMap(({ where }) => where).filter((path) => !existsSync(path))).toEqual([]);
  });
});

describe('no retired name', () => {
  it('is an identifier of the product or of the tests', () => {
    const found = sources.flatMap((file) =>
      [...identifiersOf(readText(file))].filter((name) => retired.has(name)).map((name) => `${name} in ${file}`),
    );
    expect(found).toEqual([]);
  });

  it('is a file of the product or of the tests', () => {
    const camelCase = (name: string): string => name.replace(/-(\w)/g, (_, letter: string) => letter.toUpperCase());
    const found = sources.filter((file) => retired.has(camelCase(basename(file).replace(/(\.real)?(\.test)?\.ts$/, ''))));
    expect(found).toEqual([]);
  });

  it('is a workflow type, a signal, a search attribute or an activity', () => {
    // Activities are the members of the contracts' interfaces.
    const activities = filesBeneath('contracts', '.ts').flatMap((file) =>
      [...stripProse(readText(file)).matchAll(/^ {2}(\w+)\(/gm)].map((match) => match[1]!),
    );
    expect(activities.length).toBeGreaterThan(50);
    const names = [...Object.values(workflowType), ...Object.values(signalName), ...searchAttributes, ...activities];
    expect(names.filter((name) => retired.has(name))).toEqual([]);
  });
});

describe('prose', () => {
  it('names parties: an owner, a reader, a process', () => {
    const files = [...sources, ...filesBeneath('docs', '.md'), 'README.md', 'CONTRIBUTING.md'];
    const vague = files.filter((file) => !import.meta.filename.endsWith(file) && /\bwhoever\b/i.test(readText(file)));
    expect(vague).toEqual([]);
  });
});

describe('identifiersOf', () => {
  it('reads code and no prose', () => {
    const text = 'const a = /x"y[/]z/.test(`in #{b + `#{c}`} text`); // tell\n/* told */ d("insist", \'it\\\'s\') / e; f = g';
    expect([...identifiersOf(text.replaceAll('#', '$'))].sort()).toEqual(['a', 'b', 'c', 'const', 'd', 'e', 'f', 'g', 'test']);
  });
});
