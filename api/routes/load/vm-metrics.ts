import type { BusyVm } from '../../../ledger/load/read-busy-vms.ts';
import { type VmLoadField, valuesOf, vmLoadFields } from '../../../model/load/load.ts';

const mib = 2 ** 20;

interface Gauge {
  name: string;
  help: string;
  field: VmLoadField;
  /** By what a value is multiplied: Prometheus counts in base units. */
  scale: number;
}

const gauges: Gauge[] = [
  { name: 'berth_vm_cpus', help: 'Processors that the VM keeps busy', field: 'cpus', scale: 1 },
  { name: 'berth_vm_steal_ratio', help: 'What it waited for a processor, of what it wanted', field: 'steal', scale: 1 },
  { name: 'berth_vm_memory_bytes', help: 'Memory that it takes', field: 'memoryMiB', scale: mib },
  { name: 'berth_vm_disk_read_bytes_per_second', help: 'Read from its disks', field: 'readMiBPerS', scale: mib },
  { name: 'berth_vm_disk_written_bytes_per_second', help: 'Written to its disks', field: 'writtenMiBPerS', scale: mib },
  { name: 'berth_vm_network_received_bytes_per_second', help: 'Received', field: 'receivedMiBPerS', scale: mib },
  { name: 'berth_vm_network_sent_bytes_per_second', help: 'Sent', field: 'sentMiBPerS', scale: mib },
];

/** As Prometheus' text format escapes the value of a label. */
const quoted = (text: string): string => `"${text.replaceAll('\\', '\\\\').replaceAll('"', '\\"').replaceAll('\n', '\\n')}"`;

/** Gauges of each VM, with its id and name, at the time of its sample. */
export function openMetricsOf(vms: readonly BusyVm[]): string {
  const rows = vms.map(({ vm, name, atMs, values }) => ({
    labels: `{vm=${quoted(vm)},name=${quoted(name)}}`,
    load: valuesOf(vmLoadFields, values),
    atMs: Math.round(atMs),
  }));
  return gauges
    .map(({ name, help, field, scale }) => {
      const lines = rows.flatMap(({ labels, load, atMs }) => {
        const value = load[field];
        return value === null ? [] : [`${name}${labels} ${value * scale} ${atMs}\n`];
      });
      return `# HELP ${name} ${help}\n# TYPE ${name} gauge\n${lines.join('')}`;
    })
    .join('');
}
