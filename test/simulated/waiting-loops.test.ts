import { testLoops } from './bounded-loops.ts';

testLoops('work');
