import { createHostActivities } from '../../activities/host/index.ts';
import { createFakeHost } from '../../drivers/fake/host.ts';
import { createFakeRepository } from '../../drivers/fake/repository.ts';
import { newAttempt } from './attempt.ts';
import { imageOf } from './orders.ts';
import { portsContract } from './suite.ts';

portsContract(
  'the fake host',
  async () => {
    const repository = createFakeRepository();
    const host = createFakeHost({
      id: 'host1',
      repository,
      // Time passes only by sleeping, and a contract doesn't sleep: boots and commands are over at once.
      bootMs: 0,
      run: () => ({ exitCode: 0, durationMs: 0, log: 'done\nnode0\n', files: { 'out/result': 'done\n' } }),
    });
    const url = (path: string): string => `http://repository.test${path}`;
    return {
      ports: () => host.ports,
      activities: () => createHostActivities(host.ports),
      call: (act, ...args) => newAttempt().run(act, ...args),
      serve(name, content) {
        repository.sources.set(url(`/files/${name}`), content);
        return url(`/files/${name}`);
      },
      url,
      image: () => imageOf(repository),
      outputs: () => new Map([...repository.outputs.values()].map(({ path, content }) => [path, content])),
      log: () => repository.logs.get(url('/log')) ?? Buffer.alloc(0),
      restart: async () => undefined,
      close: async () => undefined,
      crash: async (name) => host.crashDomain(name),
    };
  },
  1000,
);
