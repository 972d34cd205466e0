import { createFakeClock } from '../../drivers/fake/clock.ts';
import { createFakeHost, type FakeHost } from '../../drivers/fake/host.ts';
import { createFakeRepository } from '../../drivers/fake/repository.ts';
import { type MovesBench, movesContract } from './moves-suite.ts';
import { imageOf } from './requests.ts';

movesContract(
  'two fake hosts',
  async () => {
    const repository = createFakeRepository();
    const clock = createFakeClock();
    const image = imageOf(repository);
    const fakes = ['host1', 'host2'].map((id) => createFakeHost({ id, repository, clock, bootMs: 0 }));
    const addressOf = ({ id }: FakeHost) => `${id}.test`;
    for (const fake of fakes) for (const other of fakes) fake.hostsByAddress.set(addressOf(other), other);
    const benches = fakes.map(
      (fake): MovesBench => ({
        address: addressOf(fake),
        pageWriter: null,
        ports: () => fake.ports,
        serve: () => '',
        url: (path) => path,
        image: () => image,
        log: () => Buffer.alloc(0),
        close: async () => undefined,
      }),
    );
    return { hosts: benches as [MovesBench, MovesBench], stop: async () => undefined };
  },
  1000,
);
