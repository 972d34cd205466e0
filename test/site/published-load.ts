import { Agent, get } from 'node:http';
import { setTimeout as delay } from 'node:timers/promises';
import type { TaskAnswer } from './client.ts';
import type { TestSite } from './the-site.ts';

export interface PublishedAnswer {
  id: string;
  vm: string;
  publicAddress: string;
  publicPort: number;
  state: string;
}

/**
 * Answers any number of requests of each connection with how many it has answered; a request of `/N` with N times 200 KB, ten of
 * them a second, each of which begins with its number.
 */
const server = `use IO::Socket::INET; use IO::Select; use Time::HiRes 'sleep'; $SIG{PIPE} = 'IGNORE'; $SIG{CHLD} = 'IGNORE';
my $listener = IO::Socket::INET->new(LocalPort => 8080, Listen => 64, ReuseAddr => 1) or die $!;
my $all = IO::Select->new($listener); my %text; my $count = 0;
while (1) { for my $c ($all->can_read) {
  if ($c == $listener) { my $new = $listener->accept or next; $all->add($new); $text{$new} = ''; next }
  if (!sysread($c, $text{$c}, 65536, length $text{$c})) { $all->remove($c); delete $text{$c}; close $c; next }
  while ($text{$c} =~ s/^GET \\/(\\d*) .*?\\r\\n\\r\\n//s) {
    if ($1) { my $parts = $1; next if fork;
      syswrite $c, "HTTP/1.1 200 OK\\r\\nContent-Length: " . $parts * 200000 . "\\r\\n\\r\\n";
      for my $n (1 .. $parts) { my $part = sprintf('%-10d', $n) . 'x' x 199990; my $at = 0;
        while ($at < 200000) { $at += syswrite($c, $part, 65536, $at) // exit 1 } sleep 0.1 }
      exit 0 }
    my $body = ++$count; syswrite $c, "HTTP/1.1 200 OK\\r\\nContent-Length: " . length($body) . "\\r\\n\\r\\n$body";
  } } }`;

/** A task that is a web server, published from its start; it answers clients outside when this resolves. */
export async function publishedServer({ client }: TestSite): Promise<{ task: TaskAnswer; port: PublishedAnswer }> {
  const { id } = await client.submit({
    image: 'debian-12',
    command: ['perl', '-e', server],
    resources: { vcpus: 1, memoryMiB: 192, diskMiB: 64 },
    ports: [{ port: 8080 }],
    timeoutS: 1800,
  });
  const task = await client.until(id, ['running']);
  const port = await portOf(client, task.vms[0]!);
  for (const untilMs = Date.now() + 60_000; ; await delay(200)) {
    const answered = await request(port, '/', new Agent()).then(
      () => true,
      () => false,
    );
    if (answered) return { task, port };
    if (Date.now() > untilMs) throw new Error(`nothing answers at ${JSON.stringify(port)} after a minute`);
  }
}

async function portOf(client: TestSite['client'], vm: string): Promise<PublishedAnswer> {
  for (const untilMs = Date.now() + 30_000; ; await delay(100)) {
    const { items } = (await client.callWithRetry<{ items: PublishedAnswer[] }>('GET', `/v1/vms/${vm}/ports`)).body;
    if (items[0]?.state === 'active') return items[0];
    if (Date.now() > untilMs) throw new Error(`the port of ${vm} is not active after 30 s: ${JSON.stringify(items)}`);
  }
}

/** @param seen called with each part of the body */
export function request(
  { publicAddress, publicPort }: Pick<PublishedAnswer, 'publicAddress' | 'publicPort'>,
  path: string,
  agent: Agent,
  seen: (part: Buffer) => void = () => undefined,
): Promise<void> {
  return new Promise((resolve, reject) => {
    const sent = get({ host: publicAddress, port: publicPort, path, agent, timeout: 10_000 }, (response) => {
      response.on('data', seen).on('end', resolve).on('error', reject);
    });
    sent.on('timeout', () => sent.destroy(new Error('no answer for ten seconds')));
    sent.on('error', reject);
  });
}

export interface Load {
  /** Ends it; every request that began is answered, or has failed. */
  stop(): Promise<{ answered: number; failed: string[]; connections: number; longestMs: number }>;
}

/** Twenty requests a second, over four connections that are kept. */
export function startLoad(port: PublishedAnswer): Load {
  const agents = Array.from({ length: 4 }, () => new Agent({ keepAlive: true, maxSockets: 1 }));
  let [answered, longestMs, connections] = [0, 0, 0];
  const failed: string[] = [];
  for (const agent of agents) {
    const connect = agent.createConnection.bind(agent);
    agent.createConnection = (...args) => {
      connections += 1;
      return connect(...args);
    };
  }
  let over = false;
  const run = async (agent: Agent): Promise<void> => {
    for (let nextMs = Date.now(); !over; nextMs += 200) {
      await delay(Math.max(0, nextMs - Date.now()));
      const sinceMs = Date.now();
      await request(port, '/', agent).then(
        () => {
          answered += 1;
        },
        (error: unknown) => failed.push(String(error)),
      );
      longestMs = Math.max(longestMs, Date.now() - sinceMs);
    }
  };
  const running = Promise.all(agents.map(run));
  return {
    async stop() {
      over = true;
      await running;
      for (const agent of agents) agent.destroy();
      return { answered, failed, connections, longestMs };
    },
  };
}

/** Downloads parts of 200 KB, ten a second. @returns how many came, each once and in order */
export async function download(port: PublishedAnswer, parts: number): Promise<number> {
  let bytes = 0;
  let wrong = 0;
  let head = '';
  const agent = new Agent();
  await request(port, `/${parts}`, agent, (chunk) => {
    for (let at = 0; at < chunk.length; ) {
      const within = bytes % 200_000;
      if (within < 10) {
        const taken = Math.min(10 - within, chunk.length - at);
        head += chunk.toString('latin1', at, at + taken);
        if (head.length === 10) {
          if (Number(head) !== Math.floor(bytes / 200_000) + 1) wrong += 1;
          head = '';
        }
        bytes += taken;
        at += taken;
        continue;
      }
      const taken = Math.min(200_000 - within, chunk.length - at);
      bytes += taken;
      at += taken;
    }
  });
  agent.destroy();
  if (wrong > 0 || bytes % 200_000 !== 0) throw new Error(`${wrong} parts of ${bytes} bytes were not the next ones`);
  return bytes / 200_000;
}

/** How long (ms) it takes until an attempt of which one begins each tenth of a second is answered. */
export async function untilAnswered(port: PublishedAnswer, withinMs: number): Promise<number> {
  const sinceMs = Date.now();
  let answeredMs: number | null = null;
  const agents: Agent[] = [];
  while (answeredMs === null) {
    if (Date.now() - sinceMs > withinMs) throw new Error(`nothing answers at ${JSON.stringify(port)} after ${withinMs} ms`);
    const agent = new Agent();
    agents.push(agent);
    void request(port, '/', agent).then(
      () => {
        answeredMs ??= Date.now() - sinceMs;
      },
      () => undefined,
    );
    await delay(100);
  }
  for (const agent of agents) agent.destroy();
  return answeredMs;
}
