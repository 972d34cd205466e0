import { writeFileSync } from 'node:fs';
import { configurationDocument } from './configuration.ts';

/** Writes the documents that are derived from the code: `npm run docs`. */
writeFileSync('docs/configuration.md', configurationDocument());
