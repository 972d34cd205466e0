import { createSocket } from 'node:dgram';
import { connect } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import type { Probe } from '../../contract/real/machine.ts';
import type { TestSite } from '../the-site.ts';
import { berth } from './berth.ts';

export const textOf = ({ protocol, address, port }: Probe): string => `${protocol} ${address}:${port}`;

/**
 * Reads `PROTOCOL ADDRESS PORT` lines and prints those from which anything came back, a refusal among it. With perl-base alone, as
 * every Debian guest has it.
 */
const scanner = `use strict; use Socket; use Fcntl; use IO::Select; use Errno qw(EINPROGRESS ECONNREFUSED);
my @all = <STDIN>; chomp @all; $| = 1;
while (my @some = splice @all, 0, 250) {
  my (%line, %tcp); my ($in, $out) = (IO::Select->new, IO::Select->new);
  for my $line (@some) {
    my ($protocol, $address, $port) = split / /, $line; my $tcp = $protocol eq 'tcp';
    socket(my $s, PF_INET, $tcp ? SOCK_STREAM : SOCK_DGRAM, 0) or die "socket: $!";
    fcntl($s, F_SETFL, fcntl($s, F_GETFL, 0) | O_NONBLOCK);
    my $connected = connect($s, sockaddr_in($port, inet_aton($address)));
    if (!$connected && $! == ECONNREFUSED) { print "$line\\n"; next }
    next if !$connected && $! != EINPROGRESS;
    send($s, 'probe', 0) if !$tcp;
    $line{fileno $s} = $line; $tcp{fileno $s} = $tcp; ($tcp ? $out : $in)->add($s);
  }
  for (my $until = time + 4; time < $until; ) {
    my ($r, $w) = IO::Select->select($in, $out, undef, 0.5);
    for my $s (@{$r || []}, @{$w || []}) {
      my $n = fileno $s; my $error;
      if ($tcp{$n}) { $error = unpack 'i', getsockopt($s, SOL_SOCKET, SO_ERROR); $out->remove($s) }
      else { $error = defined(recv($s, my $b, 100, 0)) ? 0 : $! + 0; $in->remove($s) }
      print "$line{$n}\\n" if $error == 0 || $error == ECONNREFUSED;
    }
  }
} print "scanned\\n";`;

/** Those that answer a guest's root. */
export async function scanFromGuest(test: TestSite, vm: string, probes: readonly Probe[]): Promise<string[]> {
  const lines = probes.map(({ protocol, address, port }) => `${protocol} ${address} ${port}\n`).join('');
  // An operator's key, for guests of any owner.
  const words = ['--key-file', test.site.ready.operatorKeyFile, 'exec', '-i', vm, '--', 'perl', '-e', scanner];
  const { output, error, code } = await berth(test, words, lines);
  const found = output.toString().trim().split('\n');
  if (code !== 0 || found.pop() !== 'scanned') throw new Error(`the scan ended with ${code}: ${output} ${error}`);
  return found.map((line) => line.replace(/ (\d+)$/, ':$1')).toSorted();
}

function answered({ protocol, address, port }: Probe, waitMs: number): Promise<boolean> {
  return new Promise((resolve) => {
    if (protocol === 'tcp') {
      const socket = connect({ host: address, port });
      const timer = setTimeout(() => over(false), waitMs);
      const over = (answer: boolean): void => {
        clearTimeout(timer);
        socket.destroy();
        resolve(answer);
      };
      socket.once('connect', () => over(true));
      socket.on('error', ({ code }: NodeJS.ErrnoException) => over(code === 'ECONNREFUSED'));
      return;
    }
    const socket = createSocket('udp4');
    const over = (answer: boolean): void => {
      clearTimeout(timer);
      socket.close();
      resolve(answer);
    };
    const timer = setTimeout(() => over(false), waitMs);
    socket.once('message', () => over(true));
    socket.once('error', ({ code }: NodeJS.ErrnoException) => over(code === 'ECONNREFUSED'));
    socket.connect(port, address, () => socket.send('probe'));
  });
}

/** Those that answer this machine: what is outside of a local site. */
export async function scanFromOutside(probes: readonly Probe[], { atOnce = 2000, waitMs = 1000 } = {}): Promise<string[]> {
  const found: string[] = [];
  for (let from = 0; from < probes.length; from += atOnce) {
    const some = probes.slice(from, from + atOnce);
    const answers = await Promise.all(some.map((probe) => answered(probe, waitMs)));
    found.push(...some.filter((_, index) => answers[index]).map(textOf));
    await delay(10);
  }
  return found.toSorted();
}
