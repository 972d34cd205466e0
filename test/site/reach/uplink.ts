import { run } from '../../../drivers/host/run-process.ts';
import { startMachine } from '../../contract/real/machines.ts';
import type { TestSite } from '../the-site.ts';

const deadlineMs = 10_000;
const table = '7715';
const [here, there] = ['198.18.240.1', '198.18.240.2'];
const echoPort = 9;

/** The site's own addresses of this machine, and those besides. */
export async function machineAddresses(test: TestSite): Promise<{ bridge: string; gateway: string; others: string[] }> {
  const gateway = test.site.hosts[0]!.address.replace(/\d+$/, '1');
  const links = JSON.parse(await run(['ip', '-json', '-4', 'address', 'show'], { deadlineMs })) as {
    ifname: string;
    addr_info: { local: string }[];
  }[];
  const of = links.find(({ addr_info }) => addr_info.some(({ local }) => local === gateway));
  if (of === undefined) throw new Error(`no interface has ${gateway}`);
  const others = links.filter(({ ifname }) => ifname !== 'lo' && !ifname.startsWith('berth-'));
  return { bridge: of.ifname, gateway, others: others.flatMap(({ addr_info }) => addr_info.map(({ local }) => local)) };
}

/**
 * Until the returned function is called, the way out of a site leads into a namespace that answers at every address and port: a
 * packet that leaks is answered, and stays on this machine.
 */
export async function answerEverywhere(test: TestSite): Promise<() => Promise<void>> {
  const { bridge } = await machineAddresses(test);
  const outside = await startMachine();
  const rule = ['iif', bridge, 'lookup', table, 'pref', '1000'];
  const ip = (...words: string[]) => run(['ip', ...words], { deadlineMs });
  const end = async (): Promise<void> => {
    await ip('rule', 'delete', ...rule);
    await outside.end();
  };
  const card = `reach${process.pid}`.slice(0, 15);
  await ip('rule', 'add', ...rule);
  try {
    await ip('link', 'add', card, 'type', 'veth', 'peer', 'name', 'wire', 'netns', String(outside.pid));
    // Answers come from addresses that the machine has its own routes to.
    await run(['sysctl', '-qw', `net.ipv4.conf.${card}.rp_filter=0`], { deadlineMs });
    await ip('address', 'add', `${here}/30`, 'dev', card);
    await ip('link', 'set', card, 'up');
    await ip('route', 'add', 'default', 'via', there, 'dev', card, 'table', table);
    await outside.ip(`address add ${there}/30 dev wire`, 'link set wire up', `route add default via ${here}`);
    const answering = ['tcp', 'udp'].map((protocol) => `-A PREROUTING -i wire -p ${protocol} -j REDIRECT --to-ports ${echoPort}`);
    const rules = ['*nat', ...answering, '-A PREROUTING -i wire -j REDIRECT', 'COMMIT'];
    await outside.on(['iptables-restore'], `${rules.join('\n')}\n`);
    await outside.call('echo', echoPort);
    return end;
  } catch (error) {
    await end();
    throw error;
  }
}
