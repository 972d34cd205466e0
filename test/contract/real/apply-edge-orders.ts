import type { EdgeOrders } from '../../../contracts/edge.ts';
import { openEdge } from '../../../drivers/network/edge.ts';
import { openPublicAddresses } from '../../../drivers/network/public-addresses.ts';

/** One pass of an edge worker as a process of its own, which a test kills: argv has the orders as JSON. */
const orders = JSON.parse(process.argv[2]!) as EdgeOrders;
await openEdge({ address: '10.77.0.221', openPorts: [22], connections: { perClient: 4096, perOwner: 32_768 } }).apply(orders);
await openPublicAddresses('eth0', (error) => console.error(error)).hold(orders.publicAddresses);
process.exit(0);
