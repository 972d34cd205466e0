import { writeFileSync } from 'node:fs';
import { renderSagaTables, sagaTables } from '../../workflows/saga-tables.ts';
import { configurationDocument } from './configuration.ts';

/** Writes the documents that are derived from the code: `npm run docs`. */
writeFileSync('docs/configuration.md', configurationDocument());
writeFileSync('docs/sagas.md', renderSagaTables(sagaTables));
