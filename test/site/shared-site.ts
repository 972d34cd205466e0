import { afterEach, test as base } from 'vitest';
import { openSite, type TestSite } from './the-site.ts';

// Apart from the-site.ts: benchmarks and tortures import that without vitest, where no fixture can be made.

/** Settings that no file's tests mind: a log is full after a MiB. */
const sharedSettings = { BERTH_LOG_LIMIT_BYTES: '1048576' };

/** One site of three hosts for all files of a worker process that don't need one of their own: the first of them starts it. */
class Keeper {
  #site: Promise<TestSite> | undefined;

  site(): Promise<TestSite> {
    this.#site ??= openSite(3, sharedSettings);
    return this.#site;
  }

  async stop(): Promise<void> {
    const site = await this.#site?.catch(() => null);
    this.#site = undefined;
    await site?.stop();
  }
}

// biome-ignore lint/correctness/noEmptyPattern: vitest reads there what else a fixture needs.
const test = base.extend('keeper', { scope: 'worker' }, async ({}, { onCleanup }) => {
  const keeper = new Keeper();
  onCleanup(() => keeper.stop());
  return keeper;
});

/**
 * Before a file's tests, and after each that has failed: what that left on the site is not to fail the next ones, so that
 * they get another. The project's files are not isolated from each other, which is what lets them share one.
 * @param prepare takes the site, and makes on it what the file's tests have in common
 */
export function onSharedSite(prepare: (site: TestSite) => void | Promise<void>): void {
  let keeper: Keeper;
  test.beforeAll(async ({ keeper: ours }) => {
    keeper = ours;
    await prepare(await keeper.site());
  });
  afterEach(async ({ task }) => {
    if (task.result?.state !== 'fail') return;
    await keeper.stop();
    await prepare(await keeper.site());
  });
}
