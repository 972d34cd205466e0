import type { HostId, ImageId } from '../../model/ids.ts';
import type { PlannedMode, PlannedMove } from '../../scheduler/drains/drain-input.ts';
import { tryAcceptMigration } from '../migrations/accept-migration.ts';
import type { DrainContext } from './drain-row.ts';

interface MoveRequest {
  vm: string;
  to: string;
  mode: PlannedMode;
  moveDisk: boolean;
  reason: string;
}

/** Returns false where the VM cannot migrate at this moment; the next step decides again from its row. */
export async function requestMove(context: DrainContext, move: MoveRequest): Promise<boolean> {
  const { tx, drain, nowMs, migrations } = context;
  // A guest that dirties its memory faster than it can be transferred is migrated cold.
  const coldFallback = move.mode === 'live' && drain.mode === 'auto';
  const accepted = await tryAcceptMigration(tx, { ...move, coldFallback, requestedBy: drain.id, nowMs });
  if (accepted === null) return false;
  migrations.push(accepted);
  return true;
}

/** The images that targets have to fetch before their VMs arrive; each image once for each host. */
export async function imagesFor(
  { tx }: DrainContext,
  moves: readonly PlannedMove[],
): Promise<{ host: HostId; image: ImageId }[]> {
  const targets = JSON.stringify(moves.map(({ vm, to }) => ({ vm, host: to })));
  return tx.$queryRaw<{ host: HostId; image: ImageId }[]>`
    SELECT DISTINCT w.host, v."imageId" AS image
    FROM jsonb_to_recordset(${targets}::jsonb) AS w(vm text, host text) JOIN "Vm" v ON v.id = w.vm
    WHERE v."imageId" IS NOT NULL
      AND v."hostId" <> w.host AND NOT EXISTS (SELECT FROM "HostImage" i WHERE i."imageId" = v."imageId" AND i."hostId" = w.host)
    ORDER BY w.host, v."imageId"`;
}
