import { existsSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type Service, startService } from '../services/child.ts';
import type { ControlOrder } from './control-process.ts';
import { bundle, type FakeSite } from './fake-site.ts';

/** Control workers of a fake site that are processes of their own, and are killed as planned. */
export interface MortalControls {
  /** Where each death that has happened has a file. */
  folder: string;
  /** Two at a time, as at a site: while one restarts, the other works. */
  under<T>(deaths: ControlOrder['deaths'], act: (killAll: () => void) => Promise<T>): Promise<T>;
  died(workflow: string): boolean;
  end(): Promise<void>;
}

export async function openMortalControls(site: FakeSite): Promise<MortalControls> {
  const folder = await mkdtemp(join(tmpdir(), 'berth-killed-'));
  return {
    folder,
    under: (deaths, act) => underMortals(site, folder, deaths, act),
    died: (workflow) => existsSync(join(folder, workflow)),
    end: () => rm(folder, { recursive: true, force: true }),
  };
}

async function underMortals<T>(
  site: FakeSite,
  folder: string,
  deaths: ControlOrder['deaths'],
  act: (killAll: () => void) => Promise<T>,
): Promise<T> {
  const code = join(folder, 'workflows.js');
  await writeFile(code, (await bundle()).code);
  const { address, namespace, databaseUrl } = site;
  const order: ControlOrder = { address, namespace, databaseUrl, bundle: code, folder, deaths };
  const services = new Set<Service>();
  let stopping = false;
  // As systemd does: a control worker that died is restarted.
  const supervise = async (): Promise<void> => {
    while (!stopping) {
      const argv: [string, ...string[]] = [
        process.execPath,
        join(import.meta.dirname, 'control-process.ts'),
        JSON.stringify(order),
      ];
      const service = startService(argv, 'SIGTERM');
      services.add(service);
      await service.failed.catch(() => undefined);
      services.delete(service);
    }
  };
  const supervising = [supervise(), supervise()];
  try {
    return await act(() => {
      for (const service of services) service.kill();
    });
  } finally {
    stopping = true;
    await Promise.all([...services].map((service) => service.stop()));
    await Promise.all(supervising);
  }
}
