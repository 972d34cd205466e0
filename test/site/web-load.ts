import type { TaskAnswer } from './client.ts';
import { onHost, type TestSite } from './the-site.ts';

/** Answers `ok`, and `end` once there is a file `stop`; the request that gets `end` is the last. */
const server = `use IO::Socket::INET; $SIG{PIPE} = 'IGNORE';
my $listener = IO::Socket::INET->new(LocalPort => 8080, Listen => 64, ReuseAddr => 1) or die $!;
while (my $c = $listener->accept) {
  while (<$c>) { last if /^\\r?$/ }
  my $body = -e 'stop' ? 'end' : 'ok';
  print $c "HTTP/1.0 200 OK\\r\\nContent-Length: " . length($body) . "\\r\\n\\r\\n$body"; close $c;
  exit 0 if $body eq 'end';
}`;
/**
 * Once the server answers: ten requests a second, each with ten seconds for its answer; prints the number of each that was
 * answered.
 */
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

/**
 * A web server, node 0, and in another VM, node 1, a client with a constant rate of requests to it: the server has begun to
 * answer.
 */
export async function serving({ client: site }: TestSite, more: object = {}): Promise<TaskAnswer> {
  const program = `if [ "$BERTH_NODE" = 0 ]; then exec perl -e "$SERVER"; fi; exec perl -e "$CLIENT"`;
  const { id } = await site.submit({
    image: 'debian-12',
    command: ['sh', '-c', program],
    env: { SERVER: server, CLIENT: client },
    nodes: 2,
    resources: { vcpus: 1, memoryMiB: 192, diskMiB: 64 },
    timeoutS: 600,
    ...more,
  });
  return site.until(id, ['running']);
}

/** The numbers of the requests that were answered, as the client printed them. */
export async function answered({ client: site }: TestSite, task: string): Promise<string[]> {
  const log = await site.callWithRetry<string>('GET', `/v1/tasks/${task}/log?node=1`);
  return log.body.split('\n').filter((line) => line !== '');
}

/** The server answers once more, and both end. Returns all that was answered. */
export async function stopServing(test: TestSite, { id, vms }: TaskAnswer): Promise<string[]> {
  const { host } = (await test.client.callWithRetry<{ host: string }>('GET', `/v1/vms/${vms[0]}`)).body;
  const touch = { execute: 'guest-exec', arguments: { path: '/usr/bin/touch', arg: ['/home/task/stop'] } };
  await onHost(test, host, ['virsh', '-q', 'qemu-agent-command', vms[0]!, JSON.stringify(touch)]);
  const ended = await test.client.over(id);
  const lines = await answered(test, id);
  if (ended.state !== 'succeeded') throw new Error(`${id} is ${ended.state}: ${JSON.stringify(ended.error)} ${lines.at(-1)}`);
  return lines;
}
