import { startTemporalServer } from './temporal-server.ts';

/**
 * Global set-up of a vitest project: a Temporal for all of its files, which get its address as TEMPORAL_ADDRESS. See
 * temporal.ts.
 */
export default async function withTemporal(): Promise<() => Promise<void>> {
  const server = await startTemporalServer();
  process.env.TEMPORAL_ADDRESS = server.address;
  return server.stop;
}
