import type { Client } from '@temporalio/client';

/** Workflow types of 0.1 that 0.2 has under other names. `keepHouse` runs at every site of 0.1. */
const retiredTypes = ['keepHouse', 'keepTemplates', 'watchHost', 'watchRecovery', 'prestage'] as const;

/**
 * Why this version must not serve the namespace: workflows of 0.1 run in it, whose histories this version can't replay. null:
 * there are none.
 */
export async function retiredWorkflowsText(client: Pick<Client, 'workflow' | 'options'>): Promise<string | null> {
  const types = retiredTypes.map((type) => `'${type}'`).join(', ');
  const { count } = await client.workflow.count(`ExecutionStatus = 'Running' AND WorkflowType IN (${types})`);
  if (count === 0) return null;
  const { namespace } = client.options;
  return (
    `${count} workflows of Berth 0.1 run in the namespace ${namespace}. Work in flight is not upgraded from 0.1: ` +
    `let it end under 0.1, then terminate the workflows of the types ${retiredTypes.join(', ')}, ` +
    'or set TEMPORAL_NAMESPACE to another namespace. See CHANGELOG.md'
  );
}
