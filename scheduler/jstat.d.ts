/** The part of jstat that is used; the package has no types of its own. */
declare module 'jstat' {
  export const studentt: {
    /** The quantile function of Student's t distribution. */
    inv(probability: number, degreesOfFreedom: number): number;
  };
}
