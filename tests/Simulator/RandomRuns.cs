namespace Snapuserd.Tests.Simulator;
public static class RandomRuns { public static int Simulate(Budget b) => 0; }
