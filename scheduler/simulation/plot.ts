import { scaleLinear, scaleOrdinal } from 'd3-scale';
import { area, curveStepAfter } from 'd3-shape';
import { occupancy } from './occupancy.ts';
import type { Schedule } from './simulator.ts';
import { hostsOf, type Trace, type TraceLease } from './trace.ts';

/** A schedule as SVG: utilization of the site over time, above a chart of each host. */

const layout = { width: 1200, left: 56, right: 16, top: 64, chart: 170, gap: 44, row: 30, axis: 34 } as const;
/** Rows become thinner, down to `minRowHeight`, so that the chart is at most this high. */
const maxHeight = 1400;
const minRowHeight = 2;

const kinds = ['reservation', 'best effort', 'suspending, resuming, booting', 'image on the link', 'migration'] as const;
type Kind = (typeof kinds)[number];
const colour = scaleOrdinal<Kind, string>(kinds, ['#2b5c8a', '#8cb369', '#d1495b', '#edae49', '#6d597a']);

interface Bar {
  host: number;
  row: number;
  from: number;
  to: number;
  kind: Kind;
  title: string;
}

export function plot(trace: Trace, schedule: Schedule): string {
  const bars = barsOf(trace, schedule);
  const end = Math.max(1, ...bars.map((bar) => bar.to));
  const x = scaleLinear([0, end], [layout.left, layout.width - layout.right]);
  const rowHeight = Math.max(minRowHeight, Math.min(layout.row, maxHeight / trace.hosts.count));
  const ganttTop = layout.top + layout.chart + layout.gap;
  const height = ganttTop + rowHeight * trace.hosts.count + layout.axis;
  const body = [
    text(layout.left, 24, `${trace.name}: ${hours(end)} on ${trace.hosts.count} hosts`, 'title'),
    legend(),
    utilization(trace, bars, x, end),
    gantt(trace, bars, x, ganttTop, rowHeight),
    timeAxis(x, ganttTop + rowHeight * trace.hosts.count),
  ];
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${layout.width} ${height}" width="${layout.width}" height="${height}" font-family="sans-serif" font-size="12">
<style>.title{font-size:16px;font-weight:600}.axis{fill:#555}.grid{stroke:#ddd}.host{fill:#f6f6f6}</style>
<rect width="100%" height="100%" fill="#fff"/>
${body.join('\n')}
</svg>
`;
}

function hours(seconds: number): string {
  return `${Math.floor(seconds / 3600)} h ${Math.round((seconds % 3600) / 60)} min`;
}

function escapeXml(value: string): string {
  return value.replace(/[&<>"]/g, (char) => `&#${char.charCodeAt(0)};`);
}

function text(x: number, y: number, value: string, className: string, anchor = 'start'): string {
  return `<text x="${x}" y="${y}" class="${className}" text-anchor="${anchor}">${escapeXml(value)}</text>`;
}

function legend(): string {
  let x: number = layout.left;
  return kinds
    .map((kind) => {
      const entry = `<rect x="${x}" y="36" width="12" height="12" fill="${colour(kind)}"/>${text(x + 17, 46, kind, 'axis')}`;
      x += 34 + kind.length * 6.6;
      return entry;
    })
    .join('');
}

/** The share of working vCPUs: reservations, above them best effort, above that overhead. */
function utilization(trace: Trace, bars: readonly Bar[], x: (t: number) => number, end: number): string {
  const y = scaleLinear([0, 1], [layout.top + layout.chart, layout.top]);
  const vcpus = new Map(trace.leases.map((lease) => [lease.id, lease.vcpus]));
  const moments = [...new Set([0, end, ...bars.flatMap((bar) => [bar.from, bar.to])])].sort((a, b) => a - b);
  const layers: Kind[] = ['reservation', 'best effort', 'suspending, resuming, booting'];
  const base = moments.map(() => 0);
  const shapes = layers.map((kind) => {
    const changes = new Map<number, number>();
    for (const bar of bars.filter((each) => each.kind === kind)) {
      const share = (vcpus.get(leaseOf(bar)) ?? 0) / (trace.hosts.count * trace.hosts.vcpus);
      changes.set(bar.from, (changes.get(bar.from) ?? 0) + share);
      changes.set(bar.to, (changes.get(bar.to) ?? 0) - share);
    }
    let current = 0;
    const points = moments.map((at, i) => {
      current += changes.get(at) ?? 0;
      const low = base[i]!;
      base[i] = low + current;
      return { at, low, high: base[i]! };
    });
    const path = area<(typeof points)[number]>()
      .x((p) => round(x(p.at)))
      .y0((p) => round(y(p.low)))
      .y1((p) => round(y(p.high)))
      .curve(curveStepAfter)(points);
    return `<path d="${path}" fill="${colour(kind)}"/>`;
  });
  const ticks = y.ticks(4).map((tick) => {
    const line = `<line x1="${layout.left}" x2="${layout.width - layout.right}" y1="${y(tick)}" y2="${y(tick)}" class="grid"/>`;
    return line + text(layout.left - 8, y(tick) + 4, `${Math.round(tick * 100)} %`, 'axis', 'end');
  });
  return `<g><title>vCPUs in use</title>${ticks.join('')}${shapes.join('')}</g>`;
}

function leaseOf(bar: Bar): string {
  return bar.title.split(' ')[0]!;
}

/** A row a host: what its VMs do, each in a separate lane; images and migrations as a thin line along the bottom. */
function gantt(trace: Trace, bars: readonly Bar[], x: (t: number) => number, top: number, rowHeight: number): string {
  const hosts = hostsOf(trace);
  const thin = rowHeight >= 12 ? 3 : 0;
  const rowCounts = hosts.map((_, host) => Math.max(1, ...bars.filter((bar) => bar.host === host).map((bar) => bar.row + 1)));
  const rows = hosts.map((host, i) => {
    const y = top + i * rowHeight;
    const label =
      rowHeight >= 9 || i % Math.ceil(9 / rowHeight) === 0
        ? text(layout.left - 8, y + rowHeight / 2 + 4, host.id, 'axis', 'end')
        : '';
    const width = layout.width - layout.left - layout.right;
    return `<rect x="${layout.left}" y="${y}" width="${width}" height="${Math.max(1, rowHeight - 1)}" class="host"/>${label}`;
  });
  const shapes = bars.map((bar) => {
    const y = top + bar.host * rowHeight;
    const onNetwork = bar.kind === 'image on the link' || bar.kind === 'migration';
    if (onNetwork && thin === 0) return '';
    const height = onNetwork ? thin : (rowHeight - 1 - thin) / rowCounts[bar.host]!;
    const offset = onNetwork ? rowHeight - 1 - thin : bar.row * height;
    const width = Math.max(0.4, x(bar.to) - x(bar.from));
    return `<rect x="${round(x(bar.from))}" y="${round(y + offset)}" width="${round(width)}" height="${round(Math.max(0.5, height - 0.4))}" fill="${colour(bar.kind)}"><title>${escapeXml(bar.title)}</title></rect>`;
  });
  return `<g>${rows.join('')}${shapes.join('')}</g>`;
}

function timeAxis(x: ReturnType<typeof scaleLinear<number, number>>, y: number): string {
  const [, end] = x.domain() as [number, number];
  const step = [60, 300, 600, 1800, 3600, 7200, 14_400, 43_200, 86_400, 604_800].find((each) => end / each <= 14) ?? 2_592_000;
  const ticks: string[] = [];
  for (let at = 0; at <= end; at += step) {
    const line = `<line x1="${x(at)}" x2="${x(at)}" y1="${layout.top}" y2="${y}" class="grid" stroke-dasharray="1 4"/>`;
    ticks.push(line + text(x(at), y + 18, clock(at), 'axis', 'middle'));
  }
  return `<g>${ticks.join('')}</g>`;
}

function clock(seconds: number): string {
  return `${Math.floor(seconds / 3600)}:${String(Math.floor((seconds % 3600) / 60)).padStart(2, '0')}`;
}

function round(value: number): number {
  return Math.round(value * 100) / 100;
}

function barsOf(trace: Trace, schedule: Schedule): Bar[] {
  const index = new Map(hostsOf(trace).map((host, i) => [host.id, i]));
  const leases = new Map(trace.leases.map((lease) => [lease.id, lease]));
  const bars: Bar[] = occupancy(schedule).map((one) => {
    const lease = leases.get(one.lease)!;
    const kind: Kind = one.working
      ? lease.kind === 'bestEffort'
        ? 'best effort'
        : 'reservation'
      : 'suspending, resuming, booting';
    return { host: index.get(one.host)!, row: 0, from: one.from, to: one.to, kind, title: titleOf(lease, one) };
  });
  assignRows(bars);
  for (const action of schedule.actions) {
    if (action.kind === 'transfer') {
      for (const host of action.hosts) {
        const title = `${action.leases.join(' ')}: image ${action.image}, ${action.fromS}–${action.untilS} s`;
        bars.push({ host: index.get(host)!, row: 0, from: action.fromS, to: action.untilS, kind: 'image on the link', title });
      }
    } else if (action.kind === 'migrate') {
      for (const { from, to } of action.vms) {
        const title = `${action.lease} from ${from} to ${to}, ${action.fromS}–${action.untilS} s`;
        for (const host of [from, to]) {
          bars.push({ host: index.get(host)!, row: 0, from: action.fromS, to: action.untilS, kind: 'migration', title });
        }
      }
    }
  }
  return bars;
}

function titleOf(lease: TraceLease, { from, to }: { from: number; to: number }): string {
  return `${lease.id} (${lease.kind}, ${lease.nodes} VMs), ${from}–${to} s`;
}

/** The lowest row of the host that is free when the bar begins. */
function assignRows(bars: Bar[]): void {
  const freeAt = new Map<number, number[]>();
  for (const bar of bars.sort((a, b) => a.from - b.from || a.to - b.to)) {
    const rows = freeAt.get(bar.host) ?? [];
    freeAt.set(bar.host, rows);
    let row = rows.findIndex((at) => at <= bar.from);
    if (row < 0) row = rows.length;
    rows[row] = bar.to;
    bar.row = row;
  }
}
