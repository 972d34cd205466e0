import { afterAll, beforeAll, expect, test } from 'vitest';
import { move, moveOver, numbersOf } from './moves.ts';
import { expectNothingLeft, onHost, openSite, type TestSite } from './the-site.ts';

let here: TestSite;
beforeAll(async () => {
  here = await openSite();
});
afterAll(() => here.stop());

/** Answers `ok`, and `end` once there is a file `stop`; what is asked of it then is the last. */
const server = `use IO::Socket::INET; $SIG{PIPE} = 'IGNORE';
my $listener = IO::Socket::INET->new(LocalPort => 8080, Listen => 64, ReuseAddr => 1) or die $!;
while (my $c = $listener->accept) {
  while (<$c>) { last if /^\\r?$/ }
  my $body = -e 'stop' ? 'end' : 'ok';
  print $c "HTTP/1.0 200 OK\\r\\nContent-Length: " . length($body) . "\\r\\n\\r\\n$body"; close $c;
  exit 0 if $body eq 'end';
}`;
/** Once the server is there: ten requests a second, each with ten seconds for its answer; says the number of each that was answered. */
const client = `use IO::Socket::INET; use Time::HiRes 'sleep'; $| = 1;
sub ask {
  local $SIG{ALRM} = sub { die "late\\n" }; alarm 10;
  my $s = IO::Socket::INET->new(PeerAddr => 'node0', PeerPort => 8080) or die "connect: $!\\n";
  print $s "GET / HTTP/1.0\\r\\n\\r\\n"; local $/; my $all = <$s>; alarm 0;
  return $all =~ /(ok|end)$/ ? $1 : die "half an answer\\n";
}
sleep 0.5 until eval { ask() };
for (my $n = 1; ; $n++) {
  my $answer = ask(); print "$n\\n"; exit 0 if $answer eq 'end'; sleep 0.1;
}`;

test('a web server under a constant rate of requests from another host moves five times, and answers every one', async () => {
  const program = `if [ "$BERTH_NODE" = 0 ]; then exec perl -e "$SERVER"; fi; exec perl -e "$CLIENT"`;
  const { id } = await here.client.submit({
    image: 'debian-12',
    command: ['sh', '-c', program],
    env: { SERVER: server, CLIENT: client },
    nodes: 2,
    resources: { vcpus: 1, memoryMiB: 192, diskMiB: 64 },
    timeoutS: 600,
  });
  const { vms, hosts } = await here.client.until(id, ['running']);
  expect(hosts[0]).not.toBe(hosts[1]);
  const answered = async () =>
    (await here.client.insist<string>('GET', `/v1/tasks/${id}/log?node=1`)).body.split('\n').filter((line) => line !== '');
  await expect.poll(async () => (await answered()).length, { timeout: 60_000 }).toBeGreaterThan(35);
  const downtimes: (number | null)[] = [];
  for (let times = 0; times < 5; times += 1) {
    const migration = await moveOver(here, (await move(here, vms[0]!)).id);
    expect(migration, JSON.stringify(migration)).toMatchObject({ state: 'succeeded', error: null });
    downtimes.push(migration.downtimeMs);
  }
  const { host } = (await here.client.insist<{ host: string }>('GET', `/v1/vms/${vms[0]}`)).body;
  const touch = { execute: 'guest-exec', arguments: { path: '/usr/bin/touch', arg: ['/home/task/stop'] } };
  await onHost(here, host, ['virsh', '-q', 'qemu-agent-command', vms[0]!, JSON.stringify(touch)]);
  const ended = await here.client.over(id);
  const lines = await answered();
  expect(ended, `${JSON.stringify(ended.error)} ${lines.at(-1)} ${await numbersOf(here, id)}`).toMatchObject({
    state: 'succeeded',
  });
  expect(lines).toEqual(Array.from({ length: lines.length }, (_, index) => String(index + 1)));
  console.log(`${lines.length} requests answered; the guest stood still for ${downtimes.join(', ')} ms`);
  await expectNothingLeft(here);
});
