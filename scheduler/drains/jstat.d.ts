/** The part of jstat that is used; the package has no types of its own. It is a CommonJS module: one object. */
declare module 'jstat' {
  const jstat: {
    studentt: {
      /** The quantile function of Student's t distribution. */
      inv(probability: number, degreesOfFreedom: number): number;
    };
  };
  export default jstat;
}
