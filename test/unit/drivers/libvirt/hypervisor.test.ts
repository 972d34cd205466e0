import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { DomainConfig } from '../../../../contracts/domain.ts';
import { domainXml, escapeXml } from '../../../../drivers/libvirt/domain-xml.ts';
import { parseState } from '../../../../drivers/libvirt/hypervisor.ts';
import { virshError } from '../../../../drivers/libvirt/virsh-call.ts';
import { domainConfig as config } from './domain-config.ts';

describe("libvirt's description of a domain", () => {
  // test/contract/ports.real.test.ts shows that libvirt accepts it.
  it('contains what was requested, with the whole chain of images', () => {
    const xml = domainXml(config);
    expect(xml).toContain('<cmdline>a=&quot;b&quot; &lt;c&gt; &amp; d ');
    expect(xml).toContain(
      '<backingStore type="file"><format type="qcow2"/><source file="/var/lib/berth/images/y/disk.qcow2"/><backingStore/></backingStore>',
    );
    expect(xml).toContain('<source protocol="nfs" name="/var/lib/berth/vms/x/disk.qcow2"><host name="10.0.0.1"/>');
  });

  // A domain that runs or is saved needs the devices that it has: version 1 is what it was, to the letter.
  it('has a panic device from machine version 2 on', () => {
    const panic = '<panic model="isa"/>';
    expect(domainXml(config)).toContain(panic);
    expect(domainXml({ ...config, panicDevice: false })).toBe(domainXml(config).replace(panic, ''));
  });

  it('has a serial port that is logged, and that can be typed into', () => {
    expect(domainXml(config)).toContain(
      '<serial type="unix"><source mode="bind" path="/tty"/><log file="/console.log" append="on"/><target port="0"/></serial>',
    );
  });

  it('has the port of the sessions program from machine version 3 on', () => {
    const port =
      '<channel type="unix"><source mode="bind" path="/stream"/><target type="virtio" name="org.berth.stream.0"/></channel>';
    expect(domainXml(config)).toContain(port);
    expect(domainXml({ ...config, streamSocket: null })).toBe(domainXml(config).replace(port, ''));
  });

  // QEMU 10's fast scan for written pages, which needs a multiple of 64 pages, forgets writes of emulated processors.
  it('has from machine version 4 on, under emulation, a memory that is no multiple of 256 KiB', () => {
    const size = Number(/&quot;id&quot;:&quot;berth\.ram&quot;,&quot;size&quot;:(\d+)/.exec(domainXml(config))?.[1]);
    expect(size % (256 * 1024)).not.toBe(0);
    expect(size).toBe(config.memoryMiB * 2 ** 20 - 8192);
    expect(domainXml(config)).toContain(`<qemu:arg value="size=${size / 1024}k"/>`);
    const before = domainXml({ ...config, unalignedMemory: false });
    expect(before).toContain(`&quot;size&quot;:${config.memoryMiB * 2 ** 20}}`);
    expect(before).not.toContain('value="-m"');
  });

  it('uses the processor of the machine only with KVM', () => {
    expect(domainXml(config)).toMatch(/^<domain type="qemu" /);
    expect(domainXml({ ...config, accelerator: 'kvm' })).toMatch(/^<domain type="kvm" .*<cpu mode="host-model"\/>/);
  });

  it('gives an emulated guest a clock that it need not calibrate', () => {
    expect(domainXml(config)).toContain(' d clocksource=hpet</cmdline>');
    expect(domainXml({ ...config, accelerator: 'kvm' })).toContain(' d</cmdline>');
    expect(domainXml({ ...config, kernel: null })).not.toContain('cmdline');
  });

  it('keeps libvirt from querying the unavailable features of an emulated processor, not those of a real one', () => {
    const without = '<qemu:capabilities><qemu:del capability="cpu-unavailable-features"/></qemu:capabilities>';
    expect(domainXml(config)).toContain(without);
    expect(domainXml({ ...config, accelerator: 'kvm' })).not.toContain(without);
  });

  it('has the memory under one name, whatever backs it', () => {
    const memoryOf = (memory: DomainConfig['memory']): Record<string, unknown> => {
      const [, json] = /<qemu:arg value="-object"\/><qemu:arg value="([^"]*)"\/>/.exec(domainXml({ ...config, memory })) ?? [];
      return JSON.parse((json ?? '').replaceAll('&quot;', '"')) as Record<string, unknown>;
    };
    const same = { id: 'berth.ram', size: 256 * 2 ** 20 - 8192 };
    expect(memoryOf({ kind: 'own' })).toEqual({ ...same, 'qom-type': 'memory-backend-ram' });
    const file = { ...same, 'qom-type': 'memory-backend-file', 'mem-path': '/m' };
    expect(memoryOf({ kind: 'template', file: '/m' })).toEqual({ ...file, share: true });
    // No guest may write to an image that other guests read.
    expect(memoryOf({ kind: 'copy', file: '/m', qmpScript: '/p' })).toEqual({
      ...file,
      share: false,
      readonly: true,
      rom: 'off',
    });
  });

  it('cannot be escaped from by any text', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'grapheme' }), (text) => {
        const escaped = escapeXml(text);
        expect(escaped).not.toMatch(/[<>"'\n\t]|&(?!(amp|lt|gt|quot|apos|#\d+);)/);
      }),
    );
    expect(() => escapeXml('\0')).toThrow('BUG');
    expect(() => escapeXml('\ud800')).toThrow('BUG');
  });
});

describe('virsh’s output', () => {
  it('of a state', () => {
    expect(parseState('x', 'running (migration canceled)\n')).toEqual({ state: 'running', reason: 'migration canceled' });
    expect(parseState('x', 'shut off (migrated)\n')).toEqual({ state: 'shutoff', reason: 'migrated' });
    expect(parseState('x', 'paused\n')).toEqual({ state: 'paused', reason: 'unknown' });
    expect(() => parseState('x', 'dreaming')).toThrow('dreaming');
  });

  it('of a refusal', () => {
    const code = (error: string): string => virshError(['create'], error).code;
    expect(code("operation failed: domain 'x' already exists with uuid 1")).toBe('not-ours');
    expect(code('Requested operation is not valid: The bt1 interface already exists')).toBe('not-ours');
    expect(code('Timed out during operation: cannot acquire state change lock')).toBe('host-busy');
    expect(code('No space left on device')).toBe('disk-full');
    expect(code('internal error: whatever')).toBe('hypervisor');
  });
});
