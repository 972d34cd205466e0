import { writeFileSync } from 'node:fs';
import { renderSagaTables, sagaTables } from '../../workflows/saga-tables.ts';
import { configurationDocument } from './configuration.ts';

/** `npm run docs`: writes the documents that are derived from the code. */
writeFileSync('docs/configuration.md', configurationDocument());
writeFileSync('docs/sagas.md', renderSagaTables(sagaTables));
