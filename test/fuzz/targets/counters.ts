import { parseDevices, parseDisks, parseMemory, parsePressure, parseProcessors } from '../../../drivers/host/machine-counters.ts';
import { parseDomainStats } from '../../../drivers/libvirt/domain-stats.ts';
import { BerthError } from '../../../model/errors.ts';
import { type FuzzTarget, requireShortMessage, signatureOf, Wrong } from '../target.ts';
import { textTarget } from './text-target.ts';

/** Of two running domains, one of them busy with a job, as libvirt 11 prints them. */
export const domainStatsText = `Domain: 'vm_01h2xcejqtf2nbrexx3vqjhp41'
  vcpu.current=2
  vcpu.maximum=2
  vcpu.0.state=1
  vcpu.0.time=4210000000
  vcpu.0.wait=0
  vcpu.0.delay=120034567
  vcpu.1.state=1
  vcpu.1.time=790000000
  vcpu.1.wait=0
  vcpu.1.delay=9965433
  vcpu.1.halted=yes
  balloon.current=262144
  balloon.maximum=262144
  balloon.last-update=0
  balloon.rss=196608
  net.count=1
  net.0.name=btaabbccddeeff
  net.0.rx.bytes=1048576
  net.0.rx.pkts=12
  net.0.tx.bytes=524288
  block.count=2
  block.0.name=vda
  block.0.path=/var/lib/berth/vms/vm_01h2xcejqtf2nbrexx3vqjhp41/disk.qcow2
  block.0.rd.reqs=4
  block.0.rd.bytes=2097152
  block.0.wr.bytes=1048576
  block.1.name=vdb
  block.1.rd.bytes=1048576
  block.1.wr.bytes=0

Domain: 'busy'
  balloon.current=262144
  balloon.maximum=262144

`;

/** A number that is below zero, or none, would become a load. */
function requireCounters(counters: object): void {
  for (const [name, value] of Object.entries(counters))
    if (typeof value === 'number' && !(Number.isFinite(value) && value >= 0)) throw new Wrong(`${name} of ${value}`);
}

export const domainStatsTarget = (): FuzzTarget =>
  textTarget([domainStatsText, domainStatsText.replaceAll('\n', '\r\n'), '', "Domain: ''\n"], async (text) => {
    try {
      const domains = parseDomainStats(text);
      for (const domain of domains) requireCounters(domain);
      return `${domains.length} domains`;
    } catch (error) {
      if (!(error instanceof BerthError) || error.code !== 'hypervisor') throw error;
      requireShortMessage(error.message);
      return signatureOf(error.message);
    }
  });

/** Files of /proc, as Linux 6 has them. */
export const procFiles = {
  stat: 'cpu  300 0 100 600 0 0 0 0 0 0\ncpu0 200 0 50 250 0 0 0 0 0 0\ncpu1 100 0 50 300 50 0 0 0 0 0\nintr 12 3\nctxt 9\n',
  meminfo: 'MemTotal:        8388608 kB\nMemFree:         1048576 kB\nMemAvailable:    2097152 kB\nHugePages_Total:       0\n',
  diskstats:
    ' 252       0 vda 100 0 2048 5 50 0 4096 7 0 9 12 0 0 0 0 0 0\n 252       1 vda1 90 0 2000 5 50 0 4000 7 0 9 12 0 0 0 0 0 0\n   7       0 loop0 1 0 2 0 0 0 0 0 0 0 0 0 0 0 0 0 0\n',
  devices: `Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:  999       9    0    0    0     0          0         0  999       9    0    0    0     0       0          0
  eth0: 1048576   99    0    0    0     0          0         0  524288    88    0    0    0     0       0          0
bt0123456789ab:    7       1    0    0    0     0          0         0    7       1    0    0    0     0       0          0
`,
  pressure: 'some avg10=0.00 avg60=0.10 avg300=0.05 total=123456\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n',
} as const;

export const machineCountersTarget = (): FuzzTarget =>
  textTarget(Object.values(procFiles), async (text) => {
    const parsers = [parseProcessors, parseMemory, parseDisks, parseDevices, parsePressure];
    const outcomes = parsers.map((parse) => {
      try {
        const found = parse(text);
        for (const one of Array.isArray(found) ? found : [found]) requireCounters(typeof one === 'number' ? { one } : one);
        return 'read';
      } catch (error) {
        if (!(error instanceof Error) || !/^\/proc\/.* has ".*", which is unknown$/s.test(error.message)) throw error;
        return 'unknown';
      }
    });
    return outcomes.join();
  });
