import type { Ledger } from '../ledger/client.ts';
import type { readConfig } from '../model/config.ts';
import type { Logger } from '../model/log.ts';
import type { EventFollowers } from './events/follow-events.ts';
import type { LogSender } from './files/follow-log.ts';
import type { Repository } from './files/repository.ts';
import type { Sessions } from './streams/sessions.ts';
import type { WorkflowClient } from './temporal.ts';

export interface ApiDeps {
  ledger: Ledger;
  temporal: WorkflowClient;
  repository: Repository;
  config: ReturnType<typeof readConfig<'api' | 'signing' | 'webhooks'>>;
  /** Of all routes together: an owner's share is counted over tasks and builds. */
  sendLog: LogSender;
  /** Followers of events: of an owner's share as well. */
  events: EventFollowers;
  /** Clients that are connected to sessions of guests. */
  sessions: Sessions;
  log: Logger;
  /** ms since 1970 */
  clock: () => number;
}
