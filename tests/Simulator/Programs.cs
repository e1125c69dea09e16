namespace Snapuserd.Tests.Simulator;
public static class Programs { public static int Simulate(Budget b) => 0; }
