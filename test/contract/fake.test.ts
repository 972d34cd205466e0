import { createFakeHost } from '../../drivers/fake/host.ts';
import { createFakeRepository } from '../../drivers/fake/repository.ts';
import { imageOf } from './requests.ts';
import { portsContract } from './suite.ts';

portsContract(
  'the fake host',
  async () => {
    const repository = createFakeRepository();
    const host = createFakeHost({
      id: 'host1',
      repository,
      // The fake clock advances only during sleeps, and the contract doesn't sleep: boots and commands take no time.
      bootMs: 0,
      run: () => ({ exitCode: 0, durationMs: 0, log: 'done\nnode0\n', files: { 'out/result': 'done\n' } }),
    });
    const url = (path: string): string => `http://repository.test${path}`;
    return {
      ports: () => host.ports,
      serve(name, content) {
        repository.sources.set(url(`/files/${name}`), content);
        return url(`/files/${name}`);
      },
      url,
      image: () => imageOf(repository),
      log: (name) => repository.logs.get(url(`/log/${name}`)) ?? Buffer.alloc(0),
      close: async () => undefined,
    };
  },
  1000,
);
