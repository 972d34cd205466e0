import { until } from '../infra/site/until.ts';
import { onHost, type TestSite } from '../test/site/the-site.ts';

/**
 * Waits until there are `count` domains on all hosts together. A host makes a template of what has booted there in an
 * additional VM, which uses a processor or two for a while; no measurement may run meanwhile.
 */
export async function quiesce(test: TestSite, count: number): Promise<void> {
  const found = async (): Promise<number> => {
    const lists = await Promise.all(test.site.hosts.map(({ id }) => onHost(test, id, ['virsh', '-q', 'list', '--name'])));
    return lists.flatMap((list) => list.split('\n').filter((name) => name.trim() !== '')).length;
  };
  await until(`there are ${count} domains`, 180_000, async () => (await found()) === count);
}
