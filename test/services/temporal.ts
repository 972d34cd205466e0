import { randomUUID } from 'node:crypto';
import { Client, Connection } from '@temporalio/client';
import { msToTs } from '@temporalio/common/lib/time.js';
import proto from '@temporalio/proto';
import { searchAttributeTypes } from '../../model/temporal.ts';

/** A namespace for one test file: task queues of the same name in other files are other queues. */
export interface FreshTemporal {
  address: string;
  namespace: string;
  client: Client;
  stop(): Promise<void>;
}

/** Long enough for any run, and the least that the server accepts. */
const retention = msToTs('1 day');

/**
 * For tests of the projects sagas and replay, once a file, as startPostgres: a namespace with Berth's search attributes
 * on the project's own Temporal server. Takes about 20 ms. Workers connect with `NativeConnection.connect({address})`.
 */
export async function startTemporal(): Promise<FreshTemporal> {
  const address = process.env.TEMPORAL_ADDRESS;
  if (address === undefined)
    throw new Error('No TEMPORAL_ADDRESS: this vitest project has no globalSetup test/services/with-temporal.ts');
  const namespace = `berth-${randomUUID()}`;
  const connection = await Connection.connect({ address });
  await connection.workflowService.registerNamespace({ namespace, workflowExecutionRetentionPeriod: retention });
  await connection.operatorService.addSearchAttributes({ namespace, searchAttributes: indexedTypes() });
  return { address, namespace, client: new Client({ connection, namespace }), stop: () => connection.close() };
}

function indexedTypes(): Record<string, number> {
  const { IndexedValueType } = proto.temporal.api.enums.v1;
  const known = {
    Keyword: IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD,
    KeywordList: IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD_LIST,
  };
  return Object.fromEntries(Object.entries(searchAttributeTypes).map(([name, type]) => [name, known[type]]));
}
